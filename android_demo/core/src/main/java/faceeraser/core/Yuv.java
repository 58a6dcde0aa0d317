package faceeraser.core;

import java.nio.ByteBuffer;

/** A camera's picture in YUV_420_888 as RGB, upright. Full-range BT.601 (JFIF), which is what Android's cameras give. */
public final class Yuv {
    private Yuv() {
    }

    /** One plane as Android's Image gives it: bytes of a pixel and of a row may lie apart. */
    public static final class Plane {
        final ByteBuffer bytes;
        final int rowStride;
        final int pixelStride;

        public Plane(ByteBuffer bytes, int rowStride, int pixelStride) {
            this.bytes = bytes;
            this.rowStride = rowStride;
            this.pixelStride = pixelStride;
        }

        int at(int x, int y) {
            return bytes.get(y * rowStride + x * pixelStride) & 0xff;
        }
    }

    /**
     * How far a camera's picture has to be turned clockwise to stand upright on the display, in degrees.
     *
     * @param sensor how far the sensor is turned against the phone (CameraCharacteristics.SENSOR_ORIENTATION)
     * @param display how far the display is turned now (90 times Display.getRotation)
     * @param front whether the camera looks at the person; its picture turns the other way
     */
    public static int turn(int sensor, int display, boolean front) {
        return Math.floorMod(front ? sensor + display : sensor - display, 360);
    }

    /**
     * Converts and turns.
     *
     * @param width of the planes as they lie in memory; chroma is half as wide and high
     * @param degrees how far the picture has to be turned clockwise to stand upright: 0, 90, 180 or 270
     * @param mirrored swap left and right afterwards, as people expect of the camera that looks at them
     */
    public static Picture rgb(Plane y, Plane u, Plane v, int width, int height, int degrees, boolean mirrored) {
        if (degrees % 90 != 0) {
            throw new IllegalArgumentException("found a turn of " + degrees + " degrees; expected a multiple of 90");
        }
        int turns = Math.floorMod(degrees / 90, 4);
        boolean lies = turns % 2 != 0;
        Picture result = new Picture(lies ? height : width, lies ? width : height);
        for (int row = 0; row < height; row++) {
            for (int column = 0; column < width; column++) {
                int luma = y.at(column, row);
                int blue = u.at(column / 2, row / 2) - 128;
                int red = v.at(column / 2, row / 2) - 128;
                int toX = turns == 0 ? column : turns == 1 ? height - 1 - row : turns == 2 ? width - 1 - column : row;
                int toY = turns == 0 ? row : turns == 1 ? column : turns == 2 ? height - 1 - row : width - 1 - column;
                int to = 3 * (toY * result.width + (mirrored ? result.width - 1 - toX : toX));
                // In 1/65536: 1.402, 0.344136, 0.714136 and 1.772.
                result.rgb[to] = clipped(luma + (91881 * red + 32768 >> 16));
                result.rgb[to + 1] = clipped(luma - (22554 * blue + 46802 * red + 32768 >> 16));
                result.rgb[to + 2] = clipped(luma + (116130 * blue + 32768 >> 16));
            }
        }
        return result;
    }

    private static byte clipped(int value) {
        return (byte) (value < 0 ? 0 : Math.min(value, 255));
    }
}
