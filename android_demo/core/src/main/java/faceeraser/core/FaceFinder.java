package faceeraser.core;

import java.io.IOException;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.List;
import java.util.TreeSet;

/**
 * Finds faces and their meshes by MediaPipe's two models (BlazeFace, arXiv:1907.05047; face mesh, arXiv:1907.06724), as
 * faces.FaceFinder does: a detector that sees 128 pixels, and a mesh of 468 points in a crop around what it found.
 */
public final class FaceFinder {
    private static final int SEEN = 128; // edge length of what the detector takes, in pixels
    private static final int CROP = 192; // and of what the mesh model takes
    private static final int NUMBERS = 16; // of a candidate in the detector's output: centre, extent, six key points
    private static final int KEYS = 6;
    private static final double OVERLAP = 0.3;
    private static final double[] ANCHORS = anchors();
    /** How sure the detector has to be. */
    static final double MIN_SCORE = 0.5;

    private final Model detector;
    private final Model landmarker;

    /**
     * @param detector takes 128 x 128 x 3 floats in [-1, 1]; gives 896 x 16 numbers and 896 logits
     * @param landmarker takes 192 x 192 x 3 floats in [0, 1]; gives 468 points of x, y and z, and a logit
     */
    public FaceFinder(Model detector, Model landmarker) {
        this.detector = detector;
        this.landmarker = landmarker;
    }

    /** Every face of a picture that has at least 128 pixels on its longer side, the widest first. */
    public List<Face> find(Picture image) throws IOException {
        List<Face> found = new ArrayList<>();
        for (Detection detection : detect(image, true)) {
            Face face = landmarks(image, detection);
            if (face != null) {
                found.add(face);
            }
        }
        found.sort(Comparator.comparingDouble(face -> -face.width));
        return found;
    }

    /**
     * Where faces are, the surest first, without their landmarks.
     *
     * @param closer where nothing is found, look once more at parts of the picture, for smaller faces
     */
    List<Detection> detect(Picture image, boolean closer) throws IOException {
        int longer = Math.max(image.width, image.height);
        List<Detection> candidates = view(image, new Box(0, 0, image.width, image.height), longer);
        if (closer && candidates.isEmpty() && longer >= 2 * SEEN) {
            // The short-range detector sees faces from about a sixth of the picture on. Before giving up, look closer.
            int side = longer / 2;
            for (int top : starts(image.height, side)) {
                for (int left : starts(image.width, side)) {
                    Box box = new Box(left, top, Math.min(left + side, image.width), Math.min(top + side, image.height));
                    candidates.addAll(view(image, box, side));
                }
            }
        }
        return merged(candidates);
    }

    /** The landmarks of what was detected, in two passes; null where the mesh model sees no face. */
    Face landmarks(Picture image, Detection found) throws IOException {
        Face face = pass(image, found.middleX(), found.middleY(), 1.5 * found.side(), found.roll());
        // The second crop, taken from the first mesh, is centred better than the detector's. Only its opinion counts.
        face = face == null ? null : follow(image, face);
        return face == null ? null : new Face(face.mesh, found.score, face.yaw);
    }

    /** The face again in the next picture of a video, in one pass from where its mesh was; null when it is lost. */
    Face follow(Picture image, Face before) throws IOException {
        double roll = Math.toDegrees(Math.atan2(
                before.mesh[2 * Face.LEFT_CORNER + 1] - before.mesh[2 * Face.RIGHT_CORNER + 1],
                before.mesh[2 * Face.LEFT_CORNER] - before.mesh[2 * Face.RIGHT_CORNER]));
        Affine turn = Affine.square(0, 0, 1, roll, 1);
        double[] extent = Box.extent(turn.of(before.points()));
        double x = (extent[0] + extent[2]) / 2;
        double y = (extent[1] + extent[3]) / 2;
        double side = 1.5 * Math.max(extent[2] - extent[0], extent[3] - extent[1]);
        Affine back = turn.inverse();
        Face face = pass(image, back.x(x, y), back.y(x, y), side, roll);
        return face != null && face.score >= 0.5 ? face : null;
    }

    /** The mesh in a square of the picture, its score the model's own; null for a square that cannot be meant. */
    private Face pass(Picture image, double x, double y, double side, double roll) throws IOException {
        if (!(side >= 4 && side <= 8 * Math.max(image.width, image.height))) {
            return null;
        }
        Affine map = Affine.square(x, y, side, roll, CROP);
        Picture patch = Sampling.cut(image, map, CROP, CROP, true);
        float[] input = new float[patch.rgb.length];
        for (int i = 0; i < input.length; i++) {
            input[i] = (patch.rgb[i] & 0xff) / 255f;
        }
        Object[] outputs = landmarker.run((Object) input);
        float[] raw = (float[]) outputs[0];
        Affine back = map.inverse();
        float[] mesh = new float[2 * Face.MESH_POINTS];
        for (int i = 0; i < Face.MESH_POINTS; i++) {
            mesh[2 * i] = (float) back.x(raw[3 * i], raw[3 * i + 1]);
            mesh[2 * i + 1] = (float) back.y(raw[3 * i], raw[3 * i + 1]);
        }
        // From ear to ear; z grows away from the camera.
        double yaw = Math.toDegrees(Math.atan2(raw[3 * 454 + 2] - raw[3 * 234 + 2], raw[3 * 454] - raw[3 * 234]));
        return new Face(mesh, share(((float[]) outputs[1])[0]), yaw);
    }

    /** What a logit means, in [0, 1]. */
    private static double share(double logit) {
        return 1 / (1 + Math.exp(-Math.max(-80, Math.min(logit, 80))));
    }

    /** Where half-overlapping windows of `side` begin so that they cover `length`. */
    private static Iterable<Integer> starts(int length, int side) {
        int last = Math.max(0, length - side);
        TreeSet<Integer> starts = new TreeSet<>();
        for (int start = 0; start < last; start += Math.max(1, side / 2)) {
            starts.add(start);
        }
        starts.add(last);
        return starts;
    }

    /** What the detector takes: a box of the picture at 128 pixels for `side`, the rest black, as the model was trained. */
    private static Picture letterboxed(Picture image, Box box, int side) {
        Picture small = Sampling.shrink(image.part(box), scaled(box.width(), side), scaled(box.height(), side));
        Picture canvas = new Picture(SEEN, SEEN);
        canvas.lay(small, (SEEN - small.width) / 2, (SEEN - small.height) / 2);
        return canvas;
    }

    private static int scaled(int length, int side) {
        return Math.max(1, (int) Math.rint(length * ((double) SEEN / side)));
    }

    private List<Detection> view(Picture image, Box box, int side) throws IOException {
        Picture canvas = letterboxed(image, box, side);
        float[] input = new float[canvas.rgb.length];
        for (int i = 0; i < input.length; i++) {
            input[i] = (canvas.rgb[i] & 0xff) / 127.5f - 1;
        }
        Object[] outputs = detector.run((Object) input);
        List<Detection> found = decode((float[]) outputs[0], (float[]) outputs[1]);
        int width = scaled(box.width(), side);
        int height = scaled(box.height(), side);
        for (Detection one : found) {
            for (int i = 0; i < one.points.length; i += 2) {
                one.points[i] = (one.points[i] - (SEEN - width) / 2) * box.width() / width - 0.5 + box.left;
                one.points[i + 1] = (one.points[i + 1] - (SEEN - height) / 2) * box.height() / height - 0.5 + box.top;
            }
        }
        return found;
    }

    /** The candidates that are sure enough, in pixels of what the detector took. */
    static List<Detection> decode(float[] raw, float[] logits) {
        List<Detection> found = new ArrayList<>();
        for (int i = 0; i < logits.length; i++) {
            if (share(logits[i]) < MIN_SCORE) {
                continue;
            }
            double[] points = new double[2 * Detection.POINTS];
            for (int axis = 0; axis < 2; axis++) {
                double anchor = ANCHORS[2 * i + axis] * SEEN;
                double centre = raw[NUMBERS * i + axis] + anchor;
                double half = raw[NUMBERS * i + 2 + axis] / 2;
                points[axis] = centre - half;
                points[2 + axis] = centre + half;
                for (int key = 0; key < KEYS; key++) {
                    points[4 + 2 * key + axis] = raw[NUMBERS * i + 4 + 2 * key + axis] + anchor;
                }
            }
            found.add(new Detection(points, share(logits[i])));
        }
        return found;
    }

    /** Centres of the 896 anchors in [0, 1], x then y: 16 x 16 cells twice, then 8 x 8 cells six times. */
    private static double[] anchors() {
        double[] centres = new double[2 * (16 * 16 * 2 + 8 * 8 * 6)];
        int[][] grids = {{16, 2}, {8, 6}};
        int at = 0;
        for (int[] grid : grids) {
            for (int cell = 0; cell < grid[0] * grid[0]; cell++) {
                for (int repeat = 0; repeat < grid[1]; repeat++) {
                    centres[at++] = (cell % grid[0] + 0.5) / grid[0];
                    centres[at++] = (cell / grid[0] + 0.5) / grid[0];
                }
            }
        }
        return centres;
    }

    /** Overlapping candidates become their average weighted by score (BlazeFace's blending), the surest first. */
    static List<Detection> merged(List<Detection> candidates) {
        List<Detection> left = new ArrayList<>(candidates);
        left.sort(Comparator.comparingDouble(candidate -> -candidate.score));
        List<Detection> found = new ArrayList<>();
        while (!left.isEmpty()) {
            Detection best = left.get(0);
            double[] mean = new double[2 * Detection.POINTS];
            double weights = 0;
            List<Detection> others = new ArrayList<>();
            for (Detection candidate : left) {
                if (candidate != best && best.overlap(candidate) <= OVERLAP) {
                    others.add(candidate);
                    continue;
                }
                weights += candidate.score;
                for (int i = 0; i < mean.length; i++) {
                    mean[i] += (candidate.points[i] - mean[i]) * candidate.score / weights;
                }
            }
            found.add(new Detection(mean, best.score));
            left = others;
        }
        return found;
    }
}
