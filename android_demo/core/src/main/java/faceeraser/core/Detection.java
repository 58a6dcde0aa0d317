package faceeraser.core;

/** Where the detector sees a face, in the picture's pixels. */
public final class Detection {
    static final int POINTS = 8;
    private static final int RIGHT_EYE = 2;
    private static final int LEFT_EYE = 3;

    /** x and y of two corners of a box, then of the eyes, the nose, the mouth and the ears. */
    final double[] points;
    /** How sure it is, in [0, 1]. */
    public final double score;

    Detection(double[] points, double score) {
        this.points = points;
        this.score = score;
    }

    double middleX() {
        return (points[0] + points[2]) / 2;
    }

    double middleY() {
        return (points[1] + points[3]) / 2;
    }

    /** The box's longer side. */
    double side() {
        return Math.max(points[2] - points[0], points[3] - points[1]);
    }

    /** The slope of the eye line in degrees. */
    double roll() {
        return Math.toDegrees(Math.atan2(points[2 * LEFT_EYE + 1] - points[2 * RIGHT_EYE + 1],
                points[2 * LEFT_EYE] - points[2 * RIGHT_EYE]));
    }

    /** How much of what two boxes cover together they share, in [0, 1]. */
    double overlap(Detection other) {
        double width = Math.min(points[2], other.points[2]) - Math.max(points[0], other.points[0]);
        double height = Math.min(points[3], other.points[3]) - Math.max(points[1], other.points[1]);
        double shared = Math.max(width, 0) * Math.max(height, 0);
        return shared / Math.max(area() + other.area() - shared, 1e-9);
    }

    private double area() {
        return Math.max(points[2] - points[0], 0) * Math.max(points[3] - points[1], 0);
    }
}
