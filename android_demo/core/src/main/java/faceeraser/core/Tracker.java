package faceeraser.core;

import java.io.IOException;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;

/**
 * Faces from picture to picture, as face/tracking.py follows them: landmarks without jitter and without lag, and a
 * detector that rests. It runs while no face is followed, when one has just been lost, and now and then for others.
 */
public final class Tracker {
    private static final double JUMP = 0.75; // eye distances between two pictures: no face moves so far

    /** One face that is followed: as the model saw it last, and as it is shown. */
    public static final class Tracked {
        /** Its own for as long as it is followed. */
        public final int number;
        /** Smoothed. */
        public final Face face;
        private final OneEuro filter;
        private final Face seen;

        private Tracked(int number, OneEuro filter, Face seen, Face face) {
            this.number = number;
            this.filter = filter;
            this.seen = seen;
            this.face = face;
        }
    }

    private final FaceFinder finder;
    private final OneEuro.Settings settings;
    private List<Tracked> tracks = new ArrayList<>();
    private int since;
    private boolean fresh = true;
    private int numbers;

    /**
     * @param finder finds and follows
     * @param json what faceeraser/face/tracking.json says
     */
    public Tracker(FaceFinder finder, String json) {
        this.finder = finder;
        this.settings = new OneEuro.Settings(json);
    }

    /** Forgets all faces, as when the picture comes from another camera. */
    public void forget() {
        tracks = new ArrayList<>();
        since = 0;
        fresh = true;
    }

    /**
     * The faces of the next picture, in its coordinates, in the order in which they came in.
     *
     * @param seconds since the picture before, above 0
     */
    public List<Tracked> next(Picture image, double seconds) throws IOException {
        List<Tracked> kept = new ArrayList<>();
        for (Tracked track : tracks) {
            Face seen = finder.follow(image, track.seen);
            // Two that have come to follow the same face are one: the older stays.
            if (seen != null && !isAmong(kept, seen)) {
                kept.add(moved(track, seen, seconds));
            }
        }
        boolean lost = kept.size() < tracks.size();
        since++;
        boolean due = since >= settings.detectEvery;
        if (lost || kept.isEmpty() || due) {
            // Without a face every picture is looked at, or one would show for a while; the closer look, which costs as much
            // as the rest of a picture, is for the first one of it and then now and then.
            boolean closer = lost || due || fresh;
            List<Detection> found = finder.detect(image, closer && kept.isEmpty());
            since = closer ? 0 : since;
            for (Detection one : found) {
                Face seen = isCovered(kept, one) ? null : finder.landmarks(image, one);
                if (seen != null && !isAmong(kept, seen)) {
                    kept.add(begun(seen, seconds));
                }
            }
        }
        fresh = false;
        tracks = kept;
        return new ArrayList<>(kept);
    }

    private Tracked begun(Face seen, double seconds) {
        OneEuro filter = new OneEuro(settings);
        filter.next(seen.points(), seen.eyeDistance, seconds);
        numbers++;
        return new Tracked(numbers, filter, seen, seen);
    }

    private Tracked moved(Tracked track, Face seen, double seconds) {
        double[] steps = new double[seen.mesh.length];
        for (int i = 0; i < steps.length; i++) {
            steps[i] = Math.abs(seen.mesh[i] - track.seen.mesh[i]);
        }
        Arrays.sort(steps);
        if (steps[steps.length / 2] > JUMP * seen.eyeDistance) {
            return begun(seen, seconds);
        }
        double[] points = track.filter.next(seen.points(), seen.eyeDistance, seconds);
        float[] mesh = new float[points.length];
        for (int i = 0; i < mesh.length; i++) {
            mesh[i] = (float) points[i];
        }
        return new Tracked(track.number, track.filter, seen, new Face(mesh, seen.score, seen.yaw));
    }

    /** Whether a mesh is of a face that is followed: their middles are nearer than a face is wide. */
    private static boolean isAmong(List<Tracked> tracks, Face face) {
        for (Tracked track : tracks) {
            double apart = Math.hypot(track.seen.ovalX - face.ovalX, track.seen.ovalY - face.ovalY);
            if (apart < 0.4 * Math.max(track.seen.width, face.width)) {
                return true;
            }
        }
        return false;
    }

    /** Whether what is detected is a face that is followed already: the middle of its box lies well inside of it. */
    private static boolean isCovered(List<Tracked> tracks, Detection found) {
        for (Tracked track : tracks) {
            double apart = Math.hypot(track.seen.ovalX - found.middleX(), track.seen.ovalY - found.middleY());
            if (apart < 0.4 * track.seen.width) {
                return true;
            }
        }
        return false;
    }
}
