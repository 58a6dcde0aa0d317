package faceeraser.core;

import org.json.JSONException;
import org.json.JSONObject;

/**
 * The 1-Euro filter (Casiez, Roussel and Vogel 2012): calm while a face rests, quick while it moves. It smooths the
 * points of one mesh; speeds are in eye distances a second, so that large faces are smoothed as small ones.
 */
final class OneEuro {
    /** The constants, faceeraser/face/tracking.json. */
    static final class Settings {
        final double minCutoff;
        final double beta;
        final double derivativeCutoff;
        /** How many pictures the detector rests while faces are followed. */
        final int detectEvery;

        /**
         * @param json what tracking.json says
         * @throws IllegalArgumentException it says something else; tells what is missing
         */
        Settings(String json) {
            try {
                JSONObject told = new JSONObject(json);
                minCutoff = told.getDouble("min_cutoff_hz");
                beta = told.getDouble("beta");
                derivativeCutoff = told.getDouble("derivative_cutoff_hz");
                detectEvery = told.getInt("detect_every");
            } catch (JSONException error) {
                throw new IllegalArgumentException("tracking.json: expected four numbers: " + error.getMessage(), error);
            }
        }
    }

    private final Settings settings;
    private double[] last;
    private double[] speed;

    OneEuro(Settings settings) {
        this.settings = settings;
    }

    /**
     * The points, smoothed; the first come back as they are.
     *
     * @param now x, y, x, y, ... in pixels, as many as in every call
     * @param unit the eye distance in pixels
     * @param seconds since the call before
     */
    double[] next(double[] now, double unit, double seconds) {
        if (last == null) {
            last = now.clone();
            speed = new double[now.length];
            return now;
        }
        for (int i = 0; i < now.length; i++) {
            double step = now[i] - last[i];
            speed[i] += share(settings.derivativeCutoff, seconds) * (step / (unit * seconds) - speed[i]);
            last[i] += share(settings.minCutoff + settings.beta * Math.abs(speed[i]), seconds) * step;
        }
        return last.clone();
    }

    /** How much of a new value an exponential low pass takes. */
    private static double share(double cutoff, double seconds) {
        return 1 / (1 + 1 / (2 * Math.PI * cutoff * seconds));
    }
}
