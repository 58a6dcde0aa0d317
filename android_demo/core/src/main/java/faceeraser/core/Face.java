package faceeraser.core;

/**
 * One face in a picture: MediaPipe's mesh of 468 points (Kartynnik et al. 2019, arXiv:1907.06724) in pixels.
 *
 * <p>The lists of points are those of face/mesh.py. "Right" is the person's right, so it lies on the picture's left.
 */
public final class Face {
    public static final int MESH_POINTS = 468;
    static final int[] RIGHT_BROW = {70, 63, 105, 66, 107, 55, 65, 52, 53, 46};
    static final int[] LEFT_BROW = {300, 293, 334, 296, 336, 285, 295, 282, 283, 276};
    static final int[] RIGHT_EYE = {33, 246, 161, 160, 159, 158, 157, 173, 133, 155, 154, 153, 145, 144, 163, 7};
    static final int[] LEFT_EYE = {263, 466, 388, 387, 386, 385, 384, 398, 362, 382, 381, 380, 374, 373, 390, 249};
    static final int[] NOSE_OUTLINE = {168, 193, 245, 188, 174, 198, 209, 49, 129, 64, 98, 97, 2, 326, 327, 294, 358, 279,
        429, 420, 399, 412, 465, 417};
    static final int[] LIPS = {61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291, 375, 321, 405, 314, 17, 84, 181, 91, 146};
    static final int[] OVAL = {10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377, 152,
        148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109};
    /** The outer corners of the eyes, whose line tells how the head is tilted. */
    static final int RIGHT_CORNER = 33;
    static final int LEFT_CORNER = 263;

    /** x and y of each point. */
    final float[] mesh;
    /** How sure the detector is, or of a face that is followed the mesh model, in [0, 1]. */
    public final double score;
    /** How far the head is turned, in degrees: positive turns the nose to the picture's right. */
    public final double yaw;
    /** x and y of the middle of the eye on the picture's left, then of the one on its right. */
    final double[] eyes;
    /** From the middle of one eye to the middle of the other, in pixels: the unit of all that has to fit any face. */
    public final double eyeDistance;
    /** The longer side of the box around the face's oval, and the box's middle, in pixels. */
    final double width;
    final double ovalX;
    final double ovalY;
    /** The slope of the eye line in degrees; positive when the eye on the picture's right is the lower one. */
    public final double roll;

    /** A face with this mesh, which is kept, not copied. */
    public Face(float[] mesh, double score, double yaw) {
        if (mesh.length != 2 * MESH_POINTS) {
            throw new IllegalArgumentException("found " + mesh.length + " numbers; expected x and y of " + MESH_POINTS
                    + " points");
        }
        this.mesh = mesh;
        this.score = score;
        this.yaw = yaw;
        double[] right = middle(RIGHT_EYE);
        double[] left = middle(LEFT_EYE);
        eyes = new double[] {right[0], right[1], left[0], left[1]};
        eyeDistance = Math.hypot(eyes[2] - eyes[0], eyes[3] - eyes[1]);
        double[] oval = Box.extent(points(OVAL));
        width = Math.max(oval[2] - oval[0], oval[3] - oval[1]);
        ovalX = (oval[0] + oval[2]) / 2;
        ovalY = (oval[1] + oval[3]) / 2;
        roll = Math.toDegrees(Math.atan2(eyes[3] - eyes[1], eyes[2] - eyes[0]));
    }

    private double[] middle(int[] indices) {
        double x = 0;
        double y = 0;
        for (int index : indices) {
            x += mesh[2 * index];
            y += mesh[2 * index + 1];
        }
        return new double[] {x / indices.length, y / indices.length};
    }

    /** The points of a list, x, y, x, y, ... */
    double[] points(int[] indices) {
        double[] points = new double[2 * indices.length];
        for (int i = 0; i < indices.length; i++) {
            points[2 * i] = mesh[2 * indices[i]];
            points[2 * i + 1] = mesh[2 * indices[i] + 1];
        }
        return points;
    }

    /** x and y of all points. */
    double[] points() {
        double[] points = new double[mesh.length];
        for (int i = 0; i < mesh.length; i++) {
            points[i] = mesh[i];
        }
        return points;
    }

    /** The middle between the eyes. */
    double middleX() {
        return (eyes[0] + eyes[2]) / 2;
    }

    double middleY() {
        return (eyes[1] + eyes[3]) / 2;
    }

    /** The same face in the coordinates that a map leads to, such as an aligned crop's. */
    public Face moved(Affine map) {
        float[] there = new float[mesh.length];
        for (int i = 0; i < mesh.length; i += 2) {
            there[i] = (float) map.x(mesh[i], mesh[i + 1]);
            there[i + 1] = (float) map.y(mesh[i], mesh[i + 1]);
        }
        return new Face(there, score, yaw);
    }

    /** The map that levels the eyes and fills a square crop of `size` pixels from the hairline to the chin. */
    public Affine aligned(int size) {
        Affine turn = Affine.square(0, 0, 1, roll, 1);
        double[] extent = Box.extent(turn.of(points(OVAL)));
        double[] centre = turn.inverse().of(new double[] {(extent[0] + extent[2]) / 2, (extent[1] + extent[3]) / 2});
        double side = 1.04 * Math.max(extent[2] - extent[0], extent[3] - extent[1]);
        return Affine.square(centre[0], centre[1], side, roll, size);
    }
}
