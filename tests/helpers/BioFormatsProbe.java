// What Bio-Formats finds in TIFFs: core metadata of each image on standard output, and all planes, in their order, in a
// file. Run by tests/engine/tiff/test_bio_formats.py: java -cp bioformats_package.jar BioFormatsProbe.java FILE PIXELS ...
import java.io.BufferedOutputStream;
import java.io.FileOutputStream;
import java.io.OutputStream;
import java.util.Arrays;
import loci.common.DebugTools;
import loci.formats.FormatTools;
import loci.formats.ImageReader;
import loci.formats.ome.OMEXMLMetadata;
import loci.formats.services.OMEXMLService;
import loci.common.services.ServiceFactory;

public class BioFormatsProbe {
    public static void main(String[] names) throws Exception {
        DebugTools.setRootLevel("OFF");
        for (int i = 0; i < names.length; i += 2) {
            try (ImageReader reader = new ImageReader(); OutputStream pixels = open(names[i + 1])) {
                OMEXMLMetadata metadata = new ServiceFactory().getInstance(OMEXMLService.class).createOMEXMLMetadata();
                reader.setMetadataStore(metadata);
                reader.setGroupFiles(false);
                reader.setFlattenedResolutions(false);
                reader.setId(names[i]);
                System.out.println("format " + reader.getFormat() + ", images " + reader.getSeriesCount());
                for (int series = 0; series < reader.getSeriesCount(); series++) {
                    reader.setSeries(series);
                    System.out.println("image " + series + ": " + describe(reader, metadata, series));
                    for (int plane = 0; plane < reader.getImageCount(); plane++) {
                        System.out.println("plane " + Arrays.toString(reader.getZCTCoords(plane)));
                        pixels.write(reader.openBytes(plane));
                    }
                }
            }
            System.out.println("end");
        }
    }

    static OutputStream open(String name) throws Exception {
        return new BufferedOutputStream(new FileOutputStream(name));
    }

    static String describe(ImageReader reader, OMEXMLMetadata metadata, int series) throws Exception {
        return reader.getSizeX() + " x " + reader.getSizeY() + " x " + reader.getSizeZ() + " x " + reader.getSizeC() + " x "
            + reader.getSizeT() + ", " + reader.getDimensionOrder() + ", " + FormatTools.getPixelTypeString(reader.getPixelType())
            + ", bits " + reader.getBitsPerPixel() + ", little " + reader.isLittleEndian() + ", rgb " + reader.getRGBChannelCount()
            + ", interleaved " + reader.isInterleaved() + ", levels " + reader.getResolutionCount()
            + ", size " + metadata.getPixelsPhysicalSizeX(series) + ", name " + metadata.getImageName(series);
    }
}
