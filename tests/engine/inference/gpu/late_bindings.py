"""NVIDIA's cuda-bindings over a GPU that is not there (`late_driver`)."""

from __future__ import annotations

import ctypes

import pytest

from tests.engine.inference.gpu.late_driver import FakeGpu

CTYPES = {ctypes.c_void_p: "u64", ctypes.c_uint32: "u32", ctypes.c_float: "f32"}


def bindings(gpu: FakeGpu, monkeypatch):
    """NVIDIA's module with its calls replaced; a name that it does not have fails here."""
    driver = pytest.importorskip("cuda.bindings.driver", reason="needs cuda-bindings: pip install cuda-bindings")
    codes, events, graphs, modules = driver.CUresult, {}, {}, {}

    def needs_context(name, work):
        def wrapped(*arguments):
            gpu.calls[name] = gpu.calls.get(name, 0) + 1
            if not gpu.here():
                return (codes.CUDA_ERROR_INVALID_CONTEXT,)
            if gpu.lost:
                return (codes.CUDA_ERROR_ILLEGAL_ADDRESS,)
            result = work(*arguments)
            return result if isinstance(result, tuple) else (codes.CUDA_SUCCESS, *([] if result is None else [result]))

        wrapped.__name__ = name
        return wrapped

    def retain(device):
        gpu.retained += 1
        return codes.CUDA_SUCCESS, "primary"

    def release(device):
        gpu.retained -= 1
        return (codes.CUDA_SUCCESS,)

    def allocate(nbytes):
        return gpu.block(nbytes, True) or (codes.CUDA_ERROR_OUT_OF_MEMORY,)

    def event(flags):
        events[handle := len(events) + 1] = None
        return handle

    def record(handle, stream):
        events[handle] = gpu.record(stream)

    def event_wait(handle):
        if events[handle] is not None:
            gpu.drain(events[handle].stream, events[handle])

    def begin(stream, mode):
        assert mode == driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        gpu.capturing[stream] = []

    def end(stream):
        graphs[handle := len(graphs) + 1] = gpu.capturing.pop(stream)
        return handle

    def launch_graph(graph, stream):
        for work in graphs[graph]:
            gpu.put(stream, work)

    def load(image):
        if (module := gpu.module(image)) is None:
            return (codes.CUDA_ERROR_INVALID_PTX,)
        modules[handle := len(modules) + 1] = module
        return handle

    def unload(module):
        gpu.loaded -= 1
        del modules[module]

    def function(module, name):
        known = name.decode() in modules[module].parameters
        return (codes.CUDA_SUCCESS, (module, name.decode())) if known else (codes.CUDA_ERROR_NOT_FOUND,)

    def launch_kernel(function, gx, gy, gz, bx, by, bz, shared, stream, parameters, extra):
        values, types = parameters
        assert (gz, shared, extra) == (1, 0, 0)
        kinds = [CTYPES[kind] for kind in types]
        gpu.launch(modules[function[0]], function[1], kinds, (gx, gy), (bx, by, bz), values, stream)

    free = {
        "cuInit": lambda flags: (codes.CUDA_SUCCESS,),
        "cuDeviceGet": lambda index: (codes.CUDA_SUCCESS, index),
        "cuDevicePrimaryCtxRetain": retain,
        "cuDevicePrimaryCtxRelease": release,
        "cuCtxPushCurrent": lambda context: (gpu.push(), (codes.CUDA_SUCCESS,))[1],
        "cuCtxPopCurrent": lambda: (gpu.pop(), (codes.CUDA_SUCCESS, "primary"))[1],
    }
    bound = {
        "cuMemAlloc": allocate,
        "cuMemFree": lambda pointer: gpu.free(pointer, True),
        "cuMemHostAlloc": lambda nbytes, flags: gpu.block(nbytes, False),
        "cuMemFreeHost": lambda pointer: gpu.free(pointer, False),
        "cuStreamCreate": lambda flags: gpu.stream(),
        "cuStreamSynchronize": lambda stream: gpu.drain(stream),
        "cuStreamWaitEvent": lambda stream, handle, flags: gpu.wait(stream, events[handle]),
        "cuEventCreate": event,
        "cuEventRecord": record,
        "cuEventSynchronize": event_wait,
        "cuMemcpyHtoDAsync": lambda target, source, nbytes, stream: gpu.copy(target, source, nbytes, stream),
        "cuMemcpyDtoHAsync": lambda target, source, nbytes, stream: gpu.copy(target, source, nbytes, stream),
        "cuStreamBeginCapture": begin,
        "cuStreamEndCapture": end,
        "cuGraphInstantiate": lambda graph, flags: graph,
        "cuGraphLaunch": launch_graph,
        "cuGraphExecDestroy": lambda graph: None,
        "cuGraphDestroy": lambda graph: graphs.pop(graph) and None,
        "cuModuleLoadData": load,
        "cuModuleUnload": unload,
        "cuModuleGetFunction": function,
        "cuLaunchKernel": launch_kernel,
        "cuMemGetInfo": lambda: (codes.CUDA_SUCCESS, gpu.memory - gpu.used, gpu.memory),
    }
    for name, work in free.items():
        monkeypatch.setattr(driver, name, work)
    for name, work in bound.items():
        monkeypatch.setattr(driver, name, needs_context(name, work))
    from defocus.engine.inference.gpu.bindings_device import BindingsDevice

    return BindingsDevice()
