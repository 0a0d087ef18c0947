"""Small files in the formats of microscopes' own programs, written by what their documentation and readers say."""

from __future__ import annotations

import struct
import uuid
from pathlib import Path

import numpy as np


def stack(*shape: int, seed: int = 0, top: int = 4000) -> np.ndarray:
    """Soft spots on a dark ground, uint16, 12 bits, of any shape (..., Y, X)."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[-2], : shape[-1]]
    planes = np.zeros((int(np.prod(shape[:-2])), *shape[-2:]))
    for plane in planes:
        for _ in range(6):
            up, left, wide = random.uniform(8, shape[-2] - 8), random.uniform(8, shape[-1] - 8), random.uniform(3, 6)
            plane += np.exp(-((y - up) ** 2 + (x - left) ** 2) / (2 * wide**2))
    planes = 100 + planes / planes.max() * (top - 200) + random.normal(0, 8, planes.shape)
    return planes.clip(0, top).astype(np.uint16).reshape(shape)


def write_lif(path: Path, images: dict[str, np.ndarray]) -> None:
    """A LIF (version 2) of images (T, C, Z, Y, X), uint16, 12 bits; 0.25 um a pixel, 0.5 um a plane, 2 s a frame."""
    elements, blocks = [], []
    for number, (name, data) in enumerate(images.items()):
        frames, channels, depth, height, width = data.shape
        plane = 2 * height * width
        axes = [(1, width, 2, 0.25e-6), (2, height, 2 * width, 0.25e-6)]
        axes += [(3, depth, plane * channels, 0.5e-6)] if depth > 1 else []
        axes += [(4, frames, plane * channels * depth, 2.0)] if frames > 1 else []
        dimensions = "".join(
            f'<DimensionDescription DimID="{axis}" NumberOfElements="{size}" Origin="0" Length="{step * (size - 1)}" '
            f'Unit="{"s" if axis == 4 else "m"}" BitInc="0" BytesInc="{jump}"/>'
            for axis, size, jump, step in axes
        )
        described = "".join(
            f'<ChannelDescription DataType="0" ChannelTag="0" Resolution="12" NameOfMeasuredQuantity="" Min="0" '
            f'Max="4095" Unit="" LUTName="Dye{channel}" IsLUTInverted="0" BytesInc="{channel * plane}" BitInc="0"/>'
            for channel in range(channels)
        )
        elements.append(
            f'<Element Name="{name}"><Data><Image><ImageDescription><Channels>{described}</Channels>'
            f"<Dimensions>{dimensions}</Dimensions></ImageDescription></Image></Data>"
            f'<Memory Size="{data.nbytes}" MemoryBlockID="MemBlock_{number}"/></Element>'
        )
        blocks.append((f"MemBlock_{number}", data.transpose(0, 2, 1, 3, 4).astype("<u2").tobytes()))
    xml = (
        '<LMSDataContainerHeader Version="2"><Element Name="project"><Memory Size="0" MemoryBlockID="MemBlock_x"/>'
        f"<Children>{''.join(elements)}</Children></Element></LMSDataContainerHeader>"
    ).encode("utf-16-le")
    with open(path, "wb") as file:
        file.write(struct.pack("<IIBI", 0x70, len(xml) + 5, 0x2A, len(xml) // 2) + xml)
        for name, pixels in blocks:
            label = name.encode("utf-16-le")
            head = struct.pack("<IIBQBI", 0x70, len(label) + 14, 0x2A, len(pixels), 0x2A, len(name))
            file.write(head + label + pixels)


def write_nd2(path: Path, data: np.ndarray) -> None:
    """An ND2 (version 2, as NIS-Elements 3 wrote it) of a series (T, C, Y, X), uint16, 12 bits; 0.25 um a pixel."""
    frames, channels, height, width = data.shape
    number = {"int": "lx_uint32", "float": "double", "str": "CLxStringW", "bool": "bool"}

    def variant(content: dict, name: str = "no_name") -> str:
        parts = [
            variant(value, key)
            if isinstance(value, dict)
            else f'<{key} runtype="{number[type(value).__name__]}" value="{str(value).lower()}"/>'
            for key, value in content.items()
        ]
        return f'<{name} runtype="CLxListVariant">{"".join(parts)}</{name}>'

    points = {"pPoint": {"Point0": {"dTValue": 1.0, "dWavelength": 500.0}}}
    probe = {"pFluorescentProbe": {"m_ExcitationSpectrum": points, "m_EmissionSpectrum": points}}
    planes = {
        f"a{channel}": {"sDescription": f"dye{channel}", "uiCompCount": 1, "uiSampleIndex": channel, **probe}
        for channel in range(channels)
    }
    attributes = {
        "uiWidth": width,
        "uiWidthBytes": 2 * width * channels,
        "uiHeight": height,
        "uiComp": channels,
        "uiBpcInMemory": 16,
        "uiBpcSignificant": 12,
        "uiSequenceCount": frames,
        "eCompression": 2,
    }
    picture = {
        "bCalibrated": True,
        "dCalibration": 0.25,
        "sPicturePlanes": {"uiCount": channels, "sPlaneNew": planes},
    }
    loop = {"eType": 1, "uLoopPars": {"uiCount": frames, "dPeriod": 2000.0, "dStart": 0.0, "dDuration": 0.0}}
    chunks = [
        (f"{name}!", f'<variant version="1.0">{variant(content)}</variant>'.encode())
        for name, content in (
            ("ImageAttributes", attributes),
            ("ImageMetadataSeq|0", picture),
            ("ImageMetadata", loop),
        )
    ]
    chunks += [
        (f"ImageDataSeq|{index}!", struct.pack("<d", 2000.0 * index) + frame.transpose(1, 2, 0).astype("<u2").tobytes())
        for index, frame in enumerate(data)
    ]
    chunks.append(("CustomData|AcqTimesCache!", np.arange(frames).astype("<f8").tobytes()))
    places = b""
    with open(path, "wb") as file:
        file.write(struct.pack("<IIQ32s64s", 0x0ABECEDA, 32, 64, b"ND2 FILE SIGNATURE CHUNK NAME01!", b"Ver2.0"))
        for name, content in chunks:
            file.seek(-file.tell() % 4096, 1)
            places += name.encode() + struct.pack("<QQ", file.tell(), len(content))
            file.write(struct.pack("<IIQ", 0x0ABECEDA, 4072, len(content)) + name.encode().ljust(4072, b"\0") + content)
        file.seek(-file.tell() % 4096, 1)
        start = file.tell()
        end = b"ND2 CHUNK MAP SIGNATURE 0000001!" + struct.pack("<Q", start)
        name = b"ND2 FILEMAP SIGNATURE NAME 0001!"
        file.write(struct.pack("<IIQ", 0x0ABECEDA, len(name), len(places + end)) + name + places + end)


def write_dv(path: Path, data: np.ndarray, order: str = "<") -> None:
    """A DeltaVision file of a stack (C, T, Z, Y, X), uint16; 0.25 um a pixel, 0.5 um a plane."""
    waves, times, depth, height, width = data.shape
    header = bytearray(1024)
    struct.pack_into(f"{order}4i", header, 0, width, height, waves * times * depth, 6)  # 6: uint16
    struct.pack_into(f"{order}3f", header, 40, 0.25, 0.25, 0.5)
    struct.pack_into(f"{order}h", header, 96, -16224)  # 0xC0A0
    struct.pack_into(f"{order}2h", header, 180, times, 0)  # 0: Z changes fastest, then T
    struct.pack_into(f"{order}6h", header, 196, waves, 525, 605, 0, 0, 0)
    path.write_bytes(bytes(header) + data.astype(f"{order}u2").tobytes())


def write_czi(path: Path, scenes: list[np.ndarray]) -> None:
    """A CZI with a scene for each stack (T, C, Z, Y, X), uint16; 0.25 um a pixel. By Zeiss's own library."""
    from pylibCZIrw import czi

    with czi.create_czi(str(path)) as document:
        for number, scene in enumerate(scenes):
            for t, c, z in np.ndindex(scene.shape[:3]):
                place = (number * 10 * scene.shape[-1], 0)
                document.write(scene[t, c, z][..., None], location=place, plane={"T": t, "C": c, "Z": z}, scene=number)
        names = {channel: f"dye{channel}" for channel in range(scenes[0].shape[1])}
        document.write_metadata(uuid.uuid4().hex, channel_names=names, scale_x=0.25e-6, scale_y=0.25e-6, scale_z=0.5e-6)


def write_ome_zarr(path: Path, data: np.ndarray, version: str = "0.5", levels: int = 2, means: bool = True) -> None:
    """An OME-Zarr of a stack (T, C, Z, Y, X) with a pyramid and an image of labels; chunks of 32 x 32 pixels."""
    import zarr

    root = zarr.open_group(path, mode="w", zarr_format=3 if version == "0.5" else 2)
    datasets = []
    for level in range(levels):
        array = root.create_array(str(level), shape=data.shape, chunks=(1, 1, 1, 32, 32), dtype=data.dtype)
        array[...] = data
        scale = [2.0, 1.0, 0.5, 0.25 * 2**level, 0.25 * 2**level]
        datasets.append({"path": str(level), "coordinateTransformations": [{"type": "scale", "scale": scale}]})
        blocks = data.reshape(*data.shape[:3], data.shape[3] // 2, 2, data.shape[4] // 2, 2)
        data = np.rint(blocks.mean((4, 6))).astype(data.dtype) if means else data[..., ::2, ::2]
    kinds = {"t": "time", "c": "channel", "z": "space", "y": "space", "x": "space"}
    units = {"t": "second", "z": "micrometer", "y": "micrometer", "x": "micrometer"}
    axes = [
        {"name": axis, "type": kind} | ({"unit": units[axis]} if axis in units else {}) for axis, kind in kinds.items()
    ]
    image = {"axes": axes, "datasets": datasets, "name": "spots"}
    colour = {"active": True, "color": "00FF00", "window": {"min": 0, "max": 4095, "start": 0, "end": 4095}}
    omero = {"channels": [{"label": f"dye{channel}"} | colour for channel in range(data.shape[1])]}
    labels = root.create_group("labels")
    nuclei = labels.create_group("nuclei")
    mask = nuclei.create_array("0", shape=(8, 8), chunks=(8, 8), dtype="u1")
    mask[...] = 7
    label = {
        "axes": axes[3:],
        "datasets": [
            {"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [4.0, 4.0]}]},
        ],
    }
    if version == "0.5":
        root.attrs["ome"] = {"version": version, "multiscales": [image], "omero": omero}
        labels.attrs["ome"] = {"version": version, "labels": ["nuclei"]}
        nuclei.attrs["ome"] = {"version": version, "multiscales": [label], "image-label": {}}
    else:
        root.attrs.update({"multiscales": [image | {"version": version}], "omero": omero})
        labels.attrs["labels"] = ["nuclei"]
        nuclei.attrs.update({"multiscales": [label | {"version": version}], "image-label": {"version": version}})
