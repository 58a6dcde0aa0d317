package faceeraser.core;

import java.util.HashMap;
import java.util.Map;

/** The sources and the shading of each face of a video, held from frame to frame as painting.py holds them: no flicker. */
final class Held {
    /** Of the sources' windows must still be skin, on average; else a plan's own are taken: the face has turned, say. */
    static final double LEAST = 0.6;
    /** Where a plan's own sources have less, as much of theirs. */
    static final double SHARE = 0.9;
    /** What a frame's own shading counts, beside what was held. */
    static final float FRESH = 0.25f;
    /** How far the two may be apart on average; else the frame's own is taken: a light has gone on, say. */
    static final double CUT = 0.03;

    private final Map<Integer, Plan> plans = new HashMap<>();

    /** The plan of a frame for the face of this number, with the sources and the shading that were held for it. */
    Plan steady(int number, Plan plan) {
        Plan held = plans.get(number);
        Plan steady = plan;
        if (held != null) {
            double enough = Math.min(LEAST, SHARE * Painting.skinOf(plan.skin, plan.sources));
            if (Painting.skinOf(plan.skin, held.sources) >= enough) {
                steady = new Plan(plan.skin, shading(held.shading, plan.shading), held.sources);
            }
        }
        plans.put(number, steady);
        return steady;
    }

    private static float[] shading(float[] held, float[] own) {
        float[] shading = new float[own.length];
        double apart = 0;
        for (int i = 0; i < own.length; i++) {
            shading[i] = held[i] + FRESH * (own[i] - held[i]);
            apart += Math.abs(own[i] - held[i]);
        }
        return apart / own.length <= CUT ? shading : own;
    }

    /** Forgets all faces. */
    void forget() {
        plans.clear();
    }
}
