package faceeraser.core;

import java.util.Arrays;

/** Where the parts of a face are, and what of it is erased; parts_map, face_mask and draw_glasses of Python. */
public final class Parts {
    public static final int BROWS = 1;
    public static final int EYES = 2;
    public static final int NOSE = 4;
    public static final int MOUTH = 8;
    public static final int GLASSES = 16;
    /** What every face has. */
    public static final int FEATURES = BROWS | EYES | NOSE | MOUTH;

    /** Parts by the names that the command line knows, in the order of the bits. */
    public static final String[] NAMES = {"brows", "eyes", "nose", "mouth", "glasses"};

    static final int[][][] POLYGONS = {
        {Face.RIGHT_BROW, Face.LEFT_BROW}, {Face.RIGHT_EYE, Face.LEFT_EYE}, {Face.NOSE_OUTLINE}, {Face.LIPS}};
    /**
     * How far brows, eyes, nose and mouth are dilated where a face is erased, in pixels of a crop whose eye distance is 90:
     * over the shadows that they throw, the folds beside a nose and the corners of a smile.
     */
    static final double[] DILATION_ERASED = {12, 20, 17, 29};
    static final double DILATION_EYE_DISTANCE = 90;
    /** How far inside the face's outline a mask ends, in pixels of such a crop: on hair or a wall skin is a lobe. */
    static final double MARGIN = 4;
    /** How far from a part's polygon it nevertheless reaches. */
    static final double LEAST = 3;
    /** In eye distances: what of a face is narrower and lies between erased parts is erased with them. */
    private static final double SLIT = 0.2;
    /** The same between the brows, where a frown is. */
    private static final double GLABELLA = 0.6;
    /** How much darker a crease is than the skin beside the mask, as a share. */
    static final double CREASE = 0.11;
    /** In pixels as of MARGIN: half of its greatest width; how near to the mask it begins, and how far it is followed. */
    static final double VALLEY = 5;
    static final double TOUCHES = 4;
    static final double REACHES = 12;
    /** How much is erased around it, and how far inside the outline it lies: nearer is the shadow of hair or of a jaw. */
    static final double AROUND = 1.5;
    static final double DEEPER = 8;

    private Parts() {
    }

    /**
     * A bit field of the parts that are asked for.
     *
     * @param face in the coordinates of the map
     * @param bits which of brows, eyes, nose and mouth to draw
     * @param dilation how far each is dilated, in pixels of a crop whose eye distance is 90
     * @return width x height bytes; parts may overlap
     */
    static byte[] map(Face face, int width, int height, int bits, double[] dilation) {
        byte[] field = new byte[width * height];
        double perPixel = face.eyeDistance / DILATION_EYE_DISTANCE;
        for (int part = 0; part < POLYGONS.length; part++) {
            if ((bits >> part & 1) != 0) {
                fillNear(field, width, height, (byte) (1 << part), face, POLYGONS[part], dilation[part] * perPixel);
            }
        }
        return field;
    }

    /** Sets a bit in every pixel at most `radius` from a polygon. By distance, which costs the same at any radius. */
    private static void fillNear(byte[] field, int width, int height, byte bit, Face face, int[][] polygons, double radius) {
        Box box = null;
        for (int[] polygon : polygons) {
            Box one = Box.around(face.points(polygon), radius + 3, width, height);
            box = box == null ? one : new Box(Math.min(box.left, one.left), Math.min(box.top, one.top),
                    Math.max(box.right, one.right), Math.max(box.bottom, one.bottom));
        }
        if (box == null || box.isEmpty()) {
            return;
        }
        // Polygons that leave the picture still dilate into it, so they are drawn with a rim of the radius around the view.
        int rim = (int) Math.ceil(radius) + 1;
        int wide = box.width() + 2 * rim;
        int high = box.height() + 2 * rim;
        byte[] canvas = new byte[wide * high];
        Arrays.fill(canvas, (byte) 1);
        for (int[] polygon : polygons) {
            double[] points = Affine.shift(rim - box.left, rim - box.top).of(face.points(polygon));
            Shapes.fill(canvas, wide, high, points, (byte) 0, false);
        }
        float[] far = Shapes.distance(canvas, wide, high);
        for (int y = 0; y < box.height(); y++) {
            for (int x = 0; x < box.width(); x++) {
                if (far[(y + rim) * wide + x + rim] <= radius) {
                    field[(box.top + y) * width + box.left + x] |= bit;
                }
            }
        }
    }

    /**
     * What to erase of a face, and what is narrow between: a slit keeps a crease, which then looks like a scar.
     *
     * @param level the face in the coordinates of its aligned crop
     * @param size edge length of the crop
     * @param bits which parts; with GLASSES a pair that fits the landmarks
     */
    public static Mask erased(Face level, int size, int bits) {
        Mask mask = new Mask(size, size, map(level, size, size, bits, DILATION_ERASED));
        Mask brows = new Mask(size, size);
        for (int i = 0; i < mask.on.length; i++) {
            brows.on[i] = (byte) (mask.on[i] & BROWS);
        }
        Mask between = Shapes.closed(brows, GLABELLA * level.eyeDistance / 2);
        Mask pair = (bits & GLASSES) != 0 ? glasses(level, size, size) : new Mask(size, size);
        for (int i = 0; i < mask.on.length; i++) {
            mask.on[i] = (byte) (mask.on[i] != 0 || between.on[i] != 0 || pair.on[i] != 0 ? 1 : 0);
        }
        Mask closed = Shapes.closed(mask, SLIT * level.eyeDistance / 2);
        byte[] near = map(level, size, size, FEATURES, new double[] {LEAST, LEAST, LEAST, LEAST});
        float[] depth = insideOutline(level, size);
        for (int i = 0; i < closed.on.length; i++) {
            boolean inside = depth[i] > MARGIN * level.eyeDistance / DILATION_EYE_DISTANCE;
            closed.on[i] = (byte) (closed.on[i] != 0 && (inside || near[i] != 0 || pair.on[i] != 0) ? 1 : 0);
        }
        return closed;
    }

    /**
     * A mask of a whole face and the creases that begin at it: at the corners of eyes, beside nose and mouth, which without
     * the part that they belong to look like slits and scars. For a still picture: in a video they would come and go.
     *
     * @param crop of the mask's size; what is under the mask is not looked at
     * @param level the face in its coordinates
     */
    static Mask withCreases(Mask mask, Picture crop, Face level) {
        int size = mask.width;
        double unit = level.eyeDistance / DILATION_EYE_DISTANCE;
        byte[] open = new byte[mask.on.length];
        for (int i = 0; i < open.length; i++) {
            open[i] = (byte) (mask.on[i] != 0 ? 0 : 1);
        }
        float[] away = Shapes.distance(open, size, size);
        float[] depth = insideOutline(level, size);
        Grid luma = new Grid(size, size, 1);
        boolean[] there = new boolean[open.length];
        double sum = 0;
        int count = 0;
        for (int i = 0; i < open.length; i++) {
            luma.values[i] = (float) (0.299 * (crop.rgb[3 * i] & 0xff) + 0.587 * (crop.rgb[3 * i + 1] & 0xff)
                    + 0.114 * (crop.rgb[3 * i + 2] & 0xff));
            there[i] = mask.on[i] == 0 && away[i] <= REACHES * unit && depth[i] > DEEPER * unit;
            if (there[i]) {
                sum += luma.values[i];
                count++;
            }
        }
        if (count == 0) {
            return mask;
        }
        float usual = (float) (sum / count);
        for (int i = 0; i < open.length; i++) {
            luma.values[i] = mask.on[i] != 0 ? usual : luma.values[i];
        }
        float[] smooth = luma.blurred().values;
        int half = (int) Math.rint(VALLEY * unit);
        float[] closing = Shapes.extremes(Shapes.extremes(smooth, size, size, half, 1), size, size, half, -1);
        boolean[] dark = new boolean[open.length];
        boolean[] begins = new boolean[open.length];
        for (int i = 0; i < open.length; i++) {
            dark[i] = there[i] && closing[i] - smooth[i] > CREASE * usual;
            begins[i] = away[i] <= TOUCHES * unit;
        }
        boolean[] creased = Shapes.reached(dark, begins, size);
        byte[] apart = new byte[open.length]; // from the creases: 0 in them
        boolean any = false;
        for (int i = 0; i < open.length; i++) {
            apart[i] = (byte) (creased[i] ? 0 : 1);
            any |= creased[i];
        }
        if (!any) {
            return mask;
        }
        float[] beside = Shapes.distance(apart, size, size);
        Mask result = new Mask(size, size);
        for (int i = 0; i < open.length; i++) {
            boolean crease = beside[i] <= AROUND * unit && depth[i] > MARGIN * unit;
            result.on[i] = (byte) (mask.on[i] != 0 || crease ? 1 : 0);
        }
        return result;
    }

    /** How far inside a face's outline each pixel of a crop lies; 0 outside. */
    private static float[] insideOutline(Face level, int size) {
        byte[] outline = new byte[size * size];
        Shapes.fill(outline, size, size, level.points(Face.OVAL), (byte) 1, false);
        return Shapes.distance(outline, size, size);
    }

    /** An average pair of glasses that fits a face: lenses, frame, bridge, and the temples as far as the face reaches. */
    static Mask glasses(Face face, int width, int height) {
        double unit = face.eyeDistance;
        double halfWidth = 0.39;
        double halfHeight = 0.31;
        double power = 3.5; // of the superellipse: 2 is round, 5 nearly a rectangle
        double drop = 0.065;
        double thick = Math.max(1, Math.rint(0.07 * unit));
        double cos = Math.cos(Math.toRadians(face.roll));
        double sin = Math.sin(Math.toRadians(face.roll));
        byte[] canvas = new byte[width * height];
        Arrays.fill(canvas, (byte) 1);
        double[] inner = new double[4];
        int[] edges = {127, 356};
        for (int eye = 0; eye < 2; eye++) {
            int side = 2 * eye - 1;
            // From the face's own axes, in eye distances from the middle of the lens, to pixels.
            Affine frame = new Affine(unit * cos, -unit * sin, 0, unit * sin, unit * cos, 0);
            Affine lens = Affine.shift(face.eyes[2 * eye], face.eyes[2 * eye + 1]).after(frame)
                    .after(Affine.shift(side * 0.04, drop));
            double[] outline = new double[128];
            for (int i = 0; i < 64; i++) {
                double angle = 2 * Math.PI * i / 64;
                outline[2 * i] = halfWidth * rounded(Math.cos(angle), power);
                outline[2 * i + 1] = halfHeight * rounded(Math.sin(angle), power);
            }
            Shapes.fill(canvas, width, height, lens.of(outline), (byte) 0, false);
            double[] hinge = lens.of(new double[] {side * halfWidth, -0.4 * halfHeight});
            draw(canvas, width, height, hinge[0], hinge[1], face.mesh[2 * edges[eye]], face.mesh[2 * edges[eye] + 1]);
            System.arraycopy(lens.of(new double[] {-side * halfWidth, -0.25 * halfHeight}), 0, inner, 2 * eye, 2);
        }
        double topX = (inner[0] + inner[2]) / 2 + 0.05 * unit * sin;
        double topY = (inner[1] + inner[3]) / 2 - 0.05 * unit * cos;
        draw(canvas, width, height, inner[0], inner[1], topX, topY);
        draw(canvas, width, height, topX, topY, inner[2], inner[3]);
        float[] far = Shapes.distance(canvas, width, height);
        Mask pair = new Mask(width, height);
        for (int i = 0; i < far.length; i++) {
            pair.on[i] = (byte) (far[i] <= thick / 2 ? 1 : 0);
        }
        return pair;
    }

    private static double rounded(double value, double power) {
        return Math.signum(value) * Math.pow(Math.abs(value), 2 / power);
    }

    private static void draw(byte[] canvas, int width, int height, double x, double y, double toX, double toY) {
        Shapes.line(canvas, width, height, (int) Math.rint(x), (int) Math.rint(y), (int) Math.rint(toX),
                (int) Math.rint(toY), (byte) 0);
    }
}
