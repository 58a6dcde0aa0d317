package faceeraser.core;

import java.util.HashMap;
import java.util.Map;

/** The sources of each face of a video, held from frame to frame as painting.py holds them: texture does not flicker. */
final class Held {
    /** Of the sources' windows must still be skin, on average; else a plan's own are taken: the face has turned, say. */
    static final double LEAST = 0.6;
    /** Where a plan's own sources have less, as much of theirs. */
    static final double SHARE = 0.9;

    private final Map<Integer, float[]> sources = new HashMap<>();

    /** The plan of a frame for the face of this number, with the sources that were held for it. */
    Plan steady(int number, Plan plan) {
        float[] held = sources.get(number);
        if (held != null) {
            double enough = Math.min(LEAST, SHARE * Painting.skinOf(plan.skin, plan.sources));
            if (Painting.skinOf(plan.skin, held) >= enough) {
                return new Plan(plan.skin, plan.shading, held);
            }
        }
        sources.put(number, plan.sources);
        return plan;
    }

    /** Forgets all faces. */
    void forget() {
        sources.clear();
    }
}
