package faceeraser.core;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.Iterator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import org.json.JSONArray;
import org.json.JSONException;
import org.json.JSONObject;

/**
 * Effects on an erased face (Hua et al. 2021, section 3.5): pieces of the photographed face are pasted back, changed, as
 * faceeraser/face/effects.json says, and blended by the fast blend of faceeraser/face/effects.py.
 */
public final class Effects {
    /** A piece: which parts it is of, and on which side: -1 on the picture's left, 1 on its right, 0 both. */
    enum Piece {
        RIGHT_BROW(Parts.BROWS, -1), LEFT_BROW(Parts.BROWS, 1), RIGHT_EYE(Parts.EYES, -1), LEFT_EYE(Parts.EYES, 1),
        NOSE(Parts.NOSE, 0), MOUTH(Parts.MOUTH, 0), FACE(Parts.FEATURES, 0);

        final int bits;
        final int side;

        Piece(int bits, int side) {
            this.bits = bits;
            this.side = side;
        }

        /** The piece by its name in effects.json, right_brow say. */
        static Piece named(String name) throws JSONException {
            for (Piece piece : values()) {
                if (piece.name().toLowerCase(Locale.ROOT).equals(name)) {
                    return piece;
                }
            }
            throw new JSONException("found piece " + name + "; expected right_brow, left_brow, right_eye, left_eye, nose, "
                    + "mouth or face");
        }
    }

    /** How far a piece reaches beyond its part: lids and shadows come along, brows do not. As in Parts. */
    static final double[] DILATION = {8, 10.5, 8, 9};
    private static final float DARK = 8; // levels that are added before a logarithm is taken: noise in black is no light
    // How much a piece may be lit in all, and how far the light at any place may differ from the median along its border: a
    // lid's shadow or a lock of hair there asks for more light than skin ever gets, and an eye's corner would glow.
    private static final float MOST_LIGHT = 0.25f;
    private static final float SPREAD = 0.08f;
    private static final int SWEEPS = 2; // of relaxation on each level, as effects.fast_clone has it
    private static final int SMALLEST_SIDE = 16;

    /** One thing that is pasted: a piece of the face, how large, and where. Distances are in eye distances. */
    private static final class Element {
        private static final List<String> KNOWN = Arrays.asList("piece", "scale", "move", "to", "angle", "landmark");

        final Piece piece;
        final double scale;
        final double angle;
        final double[] move;
        final double[] to;
        final int landmark;

        Element(JSONObject told) throws JSONException {
            for (Iterator<?> keys = told.keys(); keys.hasNext();) {
                String key = (String) keys.next();
                if (!KNOWN.contains(key)) {
                    throw new JSONException("found " + key + "; expected some of " + KNOWN + " "
                            + "(images of your own are for the command line)");
                }
            }
            piece = Piece.named(told.getString("piece"));
            scale = told.optDouble("scale", 1);
            angle = told.optDouble("angle", 0);
            move = told.has("move") ? pair(told.getJSONArray("move")) : new double[2];
            to = told.has("to") ? pair(told.getJSONArray("to")) : null;
            landmark = told.optInt("landmark", -1);
            if (!(scale > 0) || landmark >= Face.MESH_POINTS) {
                throw new JSONException("found scale " + scale + " and landmark " + landmark + "; expected a scale above 0 "
                        + "and a point of the mesh");
            }
        }

        private static double[] pair(JSONArray told) throws JSONException {
            if (told.length() != 2) {
                throw new JSONException("found " + told + "; expected two numbers, [x, y]");
            }
            return new double[] {told.getDouble(0), told.getDouble(1)};
        }

        /** The map that brings what is centred on (x, y) to this element's place, at its size. */
        Affine place(double x, double y, Face face) {
            // From the face's own unit to pixels: along the eye line, and down from it.
            double alongX = face.eyes[2] - face.eyes[0];
            double alongY = face.eyes[3] - face.eyes[1];
            Affine frame = new Affine(alongX, -alongY, face.middleX(), alongY, alongX, face.middleY());
            double toX = x;
            double toY = y;
            if (landmark >= 0) {
                toX = face.mesh[2 * landmark];
                toY = face.mesh[2 * landmark + 1];
            } else if (to != null) {
                toX = frame.x(to[0], to[1]);
                toY = frame.y(to[0], to[1]);
            }
            toX += frame.x(move[0], move[1]) - frame.x0;
            toY += frame.y(move[0], move[1]) - frame.y0;
            double cos = scale * Math.cos(Math.toRadians(angle));
            double sin = scale * Math.sin(Math.toRadians(angle));
            return new Affine(cos, -sin, toX - cos * x + sin * y, sin, cos, toY - sin * x - cos * y);
        }
    }

    private final Map<String, List<Element>> effects = new LinkedHashMap<>();

    /**
     * @param json what faceeraser/face/effects.json says
     * @throws IllegalArgumentException it says something else; tells where and what
     */
    public Effects(String json) {
        String where = "effects.json";
        try {
            JSONObject told = new JSONObject(json).getJSONObject("effects");
            for (Iterator<?> names = told.keys(); names.hasNext();) {
                String name = (String) names.next();
                where = "effects.json: " + name;
                JSONArray elements = told.getJSONObject(name).getJSONArray("elements");
                List<Element> read = new ArrayList<>();
                for (int i = 0; i < elements.length(); i++) {
                    read.add(new Element(elements.getJSONObject(i)));
                }
                effects.put(name, read);
            }
        } catch (JSONException error) {
            throw new IllegalArgumentException(where + ": " + error.getMessage(), error);
        }
    }

    /** The effects' names, sorted, since JSON objects have no order. */
    public List<String> names() {
        List<String> names = new ArrayList<>(effects.keySet());
        Collections.sort(names);
        return names;
    }

    /**
     * One face of an erased photograph with an effect's elements on it.
     *
     * @param name of {@link #names}
     * @param image the photograph that pieces are taken from
     * @param erased the same photograph with all parts of the face erased
     * @param face in its coordinates
     * @return `erased` with the elements; beyond the face's surroundings bit for bit the same
     */
    public Picture apply(String name, Picture image, Picture erased, Face face) {
        double margin = 0.6 * face.eyeDistance;
        Box near = Box.around(face.points(), margin, image.width, image.height);
        if (near.width() < SMALLEST_SIDE || near.height() < SMALLEST_SIDE) {
            return erased.copy();
        }
        Face local = face.moved(Affine.shift(-near.left, -near.top));
        Picture photograph = image.part(near);
        Picture canvas = erased.part(near);
        for (Element element : effects.get(name)) {
            Mask mask = pieceMask(local, element.piece, canvas.width, canvas.height);
            Box box = mask.bounds();
            if (box.isEmpty()) {
                continue;
            }
            Affine place = element.place((box.left + box.right - 1) / 2.0, (box.top + box.bottom - 1) / 2.0, local);
            fastClone(photograph, mask, place, canvas);
        }
        Picture result = erased.copy();
        result.lay(canvas, near.left, near.top);
        return result;
    }

    /** Where a piece of the face is; brows are left out of the eyes' pieces and eyes out of the brows'. */
    static Mask pieceMask(Face face, Piece piece, int width, int height) {
        Mask mask = new Mask(width, height, Parts.map(face, width, height, piece.bits, DILATION));
        for (int i = 0; i < mask.on.length; i++) {
            mask.on[i] = (byte) (mask.on[i] != 0 ? 1 : 0);
        }
        if (piece == Piece.FACE) {
            return Shapes.hull(mask);
        }
        if (piece.bits == Parts.EYES || piece.bits == Parts.BROWS) {
            // A border that ran through the other would give its colour to all that is pasted.
            int other = piece.bits == Parts.EYES ? Parts.BROWS : Parts.EYES;
            double[] half = new double[DILATION.length];
            for (int i = 0; i < half.length; i++) {
                half[i] = DILATION[i] / 2;
            }
            byte[] taken = Parts.map(face, width, height, other, half);
            double alongX = face.eyes[2] - face.eyes[0];
            double alongY = face.eyes[3] - face.eyes[1];
            for (int y = 0; y < height; y++) {
                for (int x = 0; x < width; x++) {
                    double across = (x - face.middleX()) * alongX + (y - face.middleY()) * alongY;
                    if (taken[y * width + x] != 0 || Math.signum(across) != piece.side) {
                        mask.on[y * width + x] = 0;
                    }
                }
            }
        }
        return mask;
    }

    /**
     * Lays what of `source` is masked over `target`, moved by `place` and lit as the target is: what the light of both
     * differs by on the mask's border is spread inside by averaging, a pyramid down and up (see effects.fast_clone).
     */
    static void fastClone(Picture source, Mask mask, Affine place, Picture target) {
        Box whole = new Box(0, 0, target.width, target.height);
        Box there = mask.warped(place, whole).bounds();
        if (there.isEmpty()) {
            return;
        }
        Box window = there.grown(3, target.width, target.height);
        Mask inside = mask.warped(place, window);
        Picture moved = Sampling.warp(source, place, window, false);
        Picture under = target.part(window);
        Grid light = spread(moved, under, inside);
        target.lay(lit(moved, light, inside, under), window.left, window.top);
    }

    /** The logarithm of a level: light is a factor, so that what brightens skin leaves a pupil black. */
    private static float light(byte level) {
        return (float) Math.log((level & 0xff) + DARK);
    }

    /** The difference of light between two pictures on a mask's border, spread over everything. */
    private static Grid spread(Picture source, Picture target, Mask mask) {
        Grid difference = new Grid(mask.width, mask.height, 3);
        Grid known = new Grid(mask.width, mask.height, 1);
        for (int y = 0; y < mask.height; y++) {
            for (int x = 0; x < mask.width; x++) {
                int at = y * mask.width + x;
                if (mask.on[at] != 0 || !touches(mask, x, y, 1)) {
                    continue;
                }
                known.values[at] = 1;
                for (int c = 0; c < 3; c++) {
                    difference.values[3 * at + c] = light(target.rgb[3 * at + c]) - light(source.rgb[3 * at + c]);
                }
            }
        }
        List<Grid> differences = new ArrayList<>();
        List<Grid> weights = new ArrayList<>();
        differences.add(difference);
        weights.add(known);
        while (Math.min(known.width, known.height) > 2) {
            int width = (known.width + 1) / 2;
            int height = (known.height + 1) / 2;
            difference = Sampling.shrink(difference, width, height);
            known = Sampling.shrink(known, width, height);
            differences.add(difference);
            weights.add(known);
        }
        Grid spread = null;
        for (int level = differences.size() - 1; level >= 0; level--) {
            known = weights.get(level);
            Grid mean = differences.get(level);
            for (int i = 0; i < mean.values.length; i++) {
                mean.values[i] /= known.values[i / 3] > 0 ? known.values[i / 3] : 1;
            }
            // What a level knows is kept; the rest comes from the level below, smoothed.
            if (spread == null) {
                spread = mean;
                continue;
            }
            spread = pinned(spread.enlarged(known.width, known.height), mean, known);
            for (int sweep = 0; sweep < SWEEPS; sweep++) {
                spread = pinned(spread.blurred(), mean, known);
            }
        }
        return spread;
    }

    /** Whether a pixel or one of its eight neighbours has this value. */
    private static boolean touches(Mask mask, int x, int y, int value) {
        for (int j = Math.max(y - 1, 0); j <= Math.min(y + 1, mask.height - 1); j++) {
            for (int i = Math.max(x - 1, 0); i <= Math.min(x + 1, mask.width - 1); i++) {
                if (mask.on[j * mask.width + i] == value) {
                    return true;
                }
            }
        }
        return false;
    }

    /** What the light of two pictures differs by along a mask's inner rim: each colour's median, as far as it may go. */
    private static float[] rimLight(Picture source, Picture target, Mask mask) {
        float[][] differences = new float[3][mask.on.length];
        int count = 0;
        for (int y = 0; y < mask.height; y++) {
            for (int x = 0; x < mask.width; x++) {
                int at = y * mask.width + x;
                if (mask.on[at] != 0 && touches(mask, x, y, 0)) {
                    for (int c = 0; c < 3; c++) {
                        differences[c][count] = light(target.rgb[3 * at + c]) - light(source.rgb[3 * at + c]);
                    }
                    count++;
                }
            }
        }
        float[] middle = new float[3];
        for (int c = 0; c < 3 && count > 0; c++) {
            Arrays.sort(differences[c], 0, count);
            float median = (differences[c][(count - 1) / 2] + differences[c][count / 2]) / 2;
            middle[c] = Math.max(-MOST_LIGHT, Math.min(median, MOST_LIGHT));
        }
        return middle;
    }

    /** `values`, with `known` ones in their place where the weight is above 0. */
    private static Grid pinned(Grid values, Grid known, Grid weight) {
        for (int i = 0; i < values.values.length; i++) {
            if (weight.values[i / 3] > 0) {
                values.values[i] = known.values[i];
            }
        }
        return values;
    }

    /** `target` with `source` in a light (what to add to its logarithm) where the mask is, softly at the rim. */
    private static Picture lit(Picture source, Grid light, Mask mask, Picture target) {
        float[] depth = mask.depth();
        float deepest = 0;
        for (float one : depth) {
            deepest = Math.max(deepest, one);
        }
        float rim = Math.max(3, 0.35f * deepest);
        float[] middle = rimLight(source, target, mask);
        Picture result = target.copy();
        for (int i = 0; i < result.rgb.length; i++) {
            if (mask.on[i / 3] == 0) {
                continue;
            }
            float lit = Math.max(middle[i % 3] - SPREAD, Math.min(light.values[i], middle[i % 3] + SPREAD));
            float laid = ((source.rgb[i] & 0xff) + DARK) * (float) Math.exp(lit) - DARK;
            int under = target.rgb[i] & 0xff;
            result.rgb[i] = Picture.level(under + (laid - under) * Math.min(depth[i / 3] / rim, 1));
        }
        return result;
    }
}
