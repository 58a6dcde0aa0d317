package faceeraser.core;

/** A picture of 8 bits: RGB, three bytes a pixel, row by row. Pixel centres lie at whole numbers, as in the Python code. */
public final class Picture {
    public final int width;
    public final int height;
    /** Red, green and blue of each pixel, as unsigned bytes. */
    public final byte[] rgb;

    /** A black picture. */
    public Picture(int width, int height) {
        this(width, height, new byte[3 * width * height]);
    }

    /** A picture of these bytes, which are kept, not copied. */
    public Picture(int width, int height, byte[] rgb) {
        if (width < 1 || height < 1 || rgb.length != 3 * width * height) {
            throw new IllegalArgumentException("found " + rgb.length + " bytes for " + width + " x " + height
                    + " pixels; expected three for each of at least one pixel");
        }
        this.width = width;
        this.height = height;
        this.rgb = rgb;
    }

    /** One colour of one pixel, 0 to 255; channel 0 is red. */
    public int at(int x, int y, int channel) {
        return rgb[3 * (y * width + x) + channel] & 0xff;
    }

    /** The same picture in memory of its own. */
    public Picture copy() {
        return new Picture(width, height, rgb.clone());
    }

    /** What lies in a box, copied. */
    public Picture part(Box box) {
        Picture part = new Picture(box.width(), box.height());
        for (int y = 0; y < part.height; y++) {
            System.arraycopy(rgb, 3 * ((box.top + y) * width + box.left), part.rgb, 3 * y * part.width, 3 * part.width);
        }
        return part;
    }

    /** Lays another picture over this one, its corner at (left, top); it must lie inside. */
    public void lay(Picture other, int left, int top) {
        for (int y = 0; y < other.height; y++) {
            System.arraycopy(other.rgb, 3 * y * other.width, rgb, 3 * ((top + y) * width + left), 3 * other.width);
        }
    }

    /** The nearest of 256 levels; halves go to the even one. */
    static byte level(double value) {
        return (byte) (value <= 0 ? 0 : value >= 255 ? 255 : (int) Math.rint(value));
    }
}
