package faceeraser.core;

/** Which pixels are meant: 1 = erase or paste, 0 = keep, as everywhere in FaceEraser. */
public final class Mask {
    public final int width;
    public final int height;
    /** 0 or 1 for each pixel, row by row. */
    public final byte[] on;

    public Mask(int width, int height) {
        this(width, height, new byte[width * height]);
    }

    /** A mask of these bytes, which are kept, not copied. */
    public Mask(int width, int height, byte[] on) {
        if (on.length != width * height) {
            throw new IllegalArgumentException("found " + on.length + " bytes; expected " + width + " x " + height);
        }
        this.width = width;
        this.height = height;
        this.on = on;
    }

    /** The smallest box with all that is on; empty where nothing is. */
    Box bounds() {
        int left = width;
        int top = height;
        int right = 0;
        int bottom = 0;
        for (int y = 0; y < height; y++) {
            for (int x = 0; x < width; x++) {
                if (on[y * width + x] != 0) {
                    left = Math.min(left, x);
                    right = Math.max(right, x + 1);
                    top = Math.min(top, y);
                    bottom = y + 1;
                }
            }
        }
        return new Box(left, top, right, bottom);
    }

    /**
     * How far each pixel lies from the nearest one that is off, in pixels, with what lies beyond the mask counting as off:
     * 0 outside, 1 on the rim. See {@link Shapes#distance}.
     */
    float[] depth() {
        int wide = width + 2;
        byte[] padded = new byte[wide * (height + 2)];
        for (int y = 0; y < height; y++) {
            System.arraycopy(on, y * width, padded, (y + 1) * wide + 1, width);
        }
        float[] far = Shapes.distance(padded, wide, height + 2);
        float[] depth = new float[width * height];
        for (int y = 0; y < height; y++) {
            System.arraycopy(far, (y + 1) * wide + 1, depth, y * width, width);
        }
        return depth;
    }

    /** The mask through a map, nearest pixel, of which only a box is made; what comes from outside is off. */
    Mask warped(Affine map, Box box) {
        Affine back = map.inverse();
        Mask moved = new Mask(box.width(), box.height());
        for (int y = 0; y < moved.height; y++) {
            for (int x = 0; x < moved.width; x++) {
                int fromX = (int) Math.rint(back.nearX(x + box.left, y + box.top));
                int fromY = (int) Math.rint(back.nearY(x + box.left, y + box.top));
                if (fromX >= 0 && fromX < width && fromY >= 0 && fromY < height) {
                    moved.on[y * moved.width + x] = on[fromY * width + fromX];
                }
            }
        }
        return moved;
    }
}
