package faceeraser.core;

/** A rectangle of whole pixels; right and bottom are the first ones beyond it. */
public final class Box {
    public final int left;
    public final int top;
    public final int right;
    public final int bottom;

    public Box(int left, int top, int right, int bottom) {
        this.left = left;
        this.top = top;
        this.right = right;
        this.bottom = bottom;
    }

    public int width() {
        return right - left;
    }

    public int height() {
        return bottom - top;
    }

    public boolean isEmpty() {
        return right <= left || bottom <= top;
    }

    /** This box, `by` pixels larger on every side, as far as it lies in a picture of this size. */
    Box grown(int by, int width, int height) {
        return new Box(Math.max(left - by, 0), Math.max(top - by, 0),
                Math.min(right + by, width), Math.min(bottom + by, height));
    }

    /** The smallest box around points (x, y, x, y, ...) as far as it lies in a picture of this size. */
    static Box around(double[] points, double margin, int width, int height) {
        double[] extent = extent(points);
        return new Box((int) Math.max(Math.floor(extent[0] - margin), 0), (int) Math.max(Math.floor(extent[1] - margin), 0),
                (int) Math.min(Math.ceil(extent[2] + margin), width), (int) Math.min(Math.ceil(extent[3] + margin), height));
    }

    /** The least x and y and the greatest x and y of points (x, y, x, y, ...). */
    static double[] extent(double[] points) {
        double[] extent = {points[0], points[1], points[0], points[1]};
        for (int i = 0; i < points.length; i += 2) {
            extent[0] = Math.min(extent[0], points[i]);
            extent[1] = Math.min(extent[1], points[i + 1]);
            extent[2] = Math.max(extent[2], points[i]);
            extent[3] = Math.max(extent[3], points[i + 1]);
        }
        return extent;
    }
}
