package faceeraser.core;

import java.util.Arrays;
import java.util.HashMap;
import java.util.Map;
import java.util.stream.Stream;

/**
 * What holds of a face of a video from frame to frame: holding.py, without glasses. Not every frame is asked for a mask and
 * a plan.
 */
final class Said {
    /** Frames that an answer holds for, at most. */
    static final int EVERY = 5;
    /** Pixels along the side of the small crop that is compared. */
    static final int SIDE = 32;
    /** Levels of 255 by which the mean of what is visible has to differ for another plan. */
    static final double LIT = 1;
    /** Levels by which some visible place, a tenth of the crop across, has to differ. */
    static final double PLAN = 6;
    /** Levels by which any place has to differ for another mask, one that it hides too. */
    static final double HIDDEN = 24;
    /** Of the crop, how far a point of a part has to move for another mask. */
    static final double MOVED = 1.5 / 256;
    /** Points of the mesh that parts are drawn by. */
    static final int[] POINTS = Arrays.stream(Parts.POLYGONS).flatMap(Stream::of).flatMapToInt(Arrays::stream).distinct()
            .sorted().toArray();

    /** What was found out of a face in its crop. */
    static final class Answer {
        final int bits;
        final double[] points;
        final Occluders.Trimmed trimmed;
        final Plan plan;

        Answer(int bits, double[] points, Occluders.Trimmed trimmed, Plan plan) {
            this.bits = bits;
            this.points = points;
            this.trimmed = trimmed;
            this.plan = plan;
        }
    }

    /** An answer, the crop that it was found in, and for how many frames it has been. */
    private static final class Thing {
        final Answer answer;
        final Picture small;
        final float[][] around;
        final boolean[] visible;
        int age = 1;

        Thing(Answer answer, Picture crop) {
            this.answer = answer;
            small = Sampling.shrink(crop, SIDE, SIDE);
            around = around(small);
            Grid hidden = new Grid(crop.width, crop.height, 1);
            for (int i = 0; i < hidden.values.length; i++) {
                hidden.values[i] = answer.trimmed.mask.on[i];
            }
            float[] share = Sampling.shrink(hidden, SIDE, SIDE).values;
            visible = new boolean[share.length];
            for (int i = 0; i < share.length; i++) {
                visible[i] = share[i] == 0;
            }
        }
    }

    private final Map<Integer, Thing> things = new HashMap<>();
    private final Held sources = new Held();
    private boolean covers;

    /** What holds for a crop of the face of this number, or null; {@link #covers} then tells of its mask. */
    Answer of(int number, Picture crop, int bits, double[] points) {
        covers = false;
        Thing thing = things.get(number);
        if (thing == null || thing.age >= EVERY || thing.answer.bits != bits) {
            return null;
        }
        Picture now = Sampling.shrink(crop, SIDE, SIDE);
        float[][] around = around(now);
        double seen = 0;
        double all = 0;
        double[] sums = new double[3];
        int count = 0;
        for (int i = 0; i < thing.visible.length; i++) {
            count += thing.visible[i] ? 1 : 0;
            for (int c = 0; c < 3; c++) {
                double differs = Math.abs(around[c][i] - thing.around[c][i]);
                all = Math.max(all, differs);
                if (thing.visible[i]) {
                    seen = Math.max(seen, differs);
                    sums[c] += (now.rgb[3 * i + c] & 0xff) - (thing.small.rgb[3 * i + c] & 0xff);
                }
            }
        }
        double light = Arrays.stream(sums).map(Math::abs).max().orElse(0) / Math.max(count, 1);
        if (seen > PLAN || light > LIT) {
            return null;
        }
        thing.age++;
        double far = 0;
        for (int i = 0; i < points.length; i += 2) {
            far = Math.max(far, Math.hypot(points[i] - thing.answer.points[i], points[i + 1] - thing.answer.points[i + 1]));
        }
        covers = far <= MOVED * crop.width && all <= HIDDEN;
        return thing.answer;
    }

    /** Whether the mask of what {@link #of} gave last holds too. */
    boolean covers() {
        return covers;
    }

    /** The answer that has just been found, with the sources and the shading that are held for this face. */
    Answer take(int number, Picture crop, Answer answer) {
        Answer held = new Answer(answer.bits, answer.points, answer.trimmed, sources.steady(number, answer.plan));
        things.put(number, new Thing(held, crop));
        return held;
    }

    /** Forgets all faces. */
    void forget() {
        things.clear();
        sources.forget();
    }

    /** Of each channel of a small picture, the means of 3 x 3. */
    private static float[][] around(Picture small) {
        float[][] means = new float[3][SIDE * SIDE];
        for (int i = 0; i < small.rgb.length; i++) {
            means[i % 3][i / 3] = small.rgb[i] & 0xff;
        }
        for (int c = 0; c < 3; c++) {
            means[c] = Painting.means(means[c], SIDE);
        }
        return means;
    }
}
