package faceeraser.core;

/** An affine map of the plane, a 2x3 matrix; where it cuts a crop, it leads from the picture's pixels to the crop's. */
public final class Affine {
    final double xx;
    final double xy;
    final double x0;
    final double yx;
    final double yy;
    final double y0;

    /** x' = xx x + xy y + x0; y' = yx x + yy y + y0. */
    public Affine(double xx, double xy, double x0, double yx, double yy, double y0) {
        this.xx = xx;
        this.xy = xy;
        this.x0 = x0;
        this.yx = yx;
        this.yy = yy;
        this.y0 = y0;
    }

    /** A square of `side` pixels around (x, y), turned by `roll` degrees, cut to `size` x `size` pixels. */
    static Affine square(double x, double y, double side, double roll, int size) {
        double scale = size / side;
        double cos = scale * Math.cos(Math.toRadians(roll));
        double sin = scale * Math.sin(Math.toRadians(roll));
        double middle = (size - 1) / 2.0;
        return new Affine(cos, sin, middle - cos * x - sin * y, -sin, cos, middle + sin * x - cos * y);
    }

    /** A move by whole or part pixels. */
    static Affine shift(double x, double y) {
        return new Affine(1, 0, x, 0, 1, y);
    }

    public double x(double x, double y) {
        return xx * x + xy * y + x0;
    }

    public double y(double x, double y) {
        return yx * x + yy * y + y0;
    }

    /** `x` in single precision, as OpenCV samples: what falls between two pixels then falls to the same one. */
    float nearX(int x, int y) {
        return (float) xx * x + (float) xy * y + (float) x0;
    }

    float nearY(int x, int y) {
        return (float) yx * x + (float) yy * y + (float) y0;
    }

    /** Points (x, y, x, y, ...), moved. */
    double[] of(double[] points) {
        double[] moved = new double[points.length];
        for (int i = 0; i < points.length; i += 2) {
            moved[i] = x(points[i], points[i + 1]);
            moved[i + 1] = y(points[i], points[i + 1]);
        }
        return moved;
    }

    public Affine inverse() {
        double det = xx * yy - xy * yx;
        double a = yy / det;
        double b = -xy / det;
        double c = -yx / det;
        double d = xx / det;
        return new Affine(a, b, -a * x0 - b * y0, c, d, -c * x0 - d * y0);
    }

    /** This map after `first`. */
    Affine after(Affine first) {
        return new Affine(xx * first.xx + xy * first.yx, xx * first.xy + xy * first.yy, x(first.x0, first.y0),
                yx * first.xx + yy * first.yx, yx * first.xy + yy * first.yy, y(first.x0, first.y0));
    }

    /** How many times longer it makes what it stretches most: the greater singular value. */
    double scale() {
        double squares = xx * xx + xy * xy + yx * yx + yy * yy;
        double det = xx * yy - xy * yx;
        return Math.sqrt((squares + Math.sqrt(Math.max(squares * squares - 4 * det * det, 0))) / 2);
    }
}
