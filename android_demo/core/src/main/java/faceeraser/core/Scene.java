package faceeraser.core;

import java.io.IOException;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;

/** From a camera's frame or a photograph to what is shown: find the faces, erase, put an effect on. */
public final class Scene {
    /** What the person chose. */
    public static final class Choice {
        /** Which {@link Parts} are erased; an effect erases all features whatever stands here. */
        public final int parts;
        /** A name of {@link Effects#names}, or null to erase only. */
        public final String effect;

        public Choice(int parts, String effect) {
            this.parts = parts;
            this.effect = effect;
        }
    }

    /** What came out, and how long it took. */
    public static final class Shown {
        public final Picture before;
        public final Picture after;
        public final int faces;
        public final double findMs;
        public final double eraseMs;
        public final double effectMs;

        Shown(Picture before, Picture after, int faces, double findMs, double eraseMs, double effectMs) {
            this.before = before;
            this.after = after;
            this.faces = faces;
            this.findMs = findMs;
            this.eraseMs = eraseMs;
            this.effectMs = effectMs;
        }
    }

    private final FaceFinder finder;
    private final Tracker tracker;
    private final Eraser eraser;
    private final Effects effects;

    public Scene(FaceFinder finder, Tracker tracker, Eraser eraser, Effects effects) {
        this.finder = finder;
        this.tracker = tracker;
        this.eraser = eraser;
        this.effects = effects;
    }

    /** One picture of a video, `seconds` after the one before. */
    public Shown frame(Picture image, double seconds, Choice choice) throws IOException {
        long begun = System.nanoTime();
        List<Face> faces = new ArrayList<>();
        List<Integer> numbers = new ArrayList<>();
        for (Tracker.Tracked one : tracker.next(image, seconds)) {
            faces.add(one.face);
            numbers.add(one.number);
        }
        return show(image, faces, numbers, choice, begun);
    }

    /** Forgets all faces, as when the picture comes from another camera. */
    public void forget() {
        tracker.forget();
        eraser.forget();
    }

    /** A photograph on its own. */
    public Shown photograph(Picture image, Choice choice) throws IOException {
        long begun = System.nanoTime();
        List<Face> faces = finder.find(image);
        return show(image, faces, Collections.nCopies(faces.size(), Eraser.ALONE), choice, begun);
    }

    private Shown show(Picture image, List<Face> faces, List<Integer> numbers, Choice choice, long begun)
            throws IOException {
        long found = System.nanoTime();
        int parts = choice.effect == null ? choice.parts : choice.parts | Parts.FEATURES;
        Picture result = image;
        for (int k = 0; k < faces.size() && parts != 0; k++) {
            result = eraser.erase(result, faces.get(k), parts, numbers.get(k));
        }
        long erased = System.nanoTime();
        for (Face face : faces) {
            result = choice.effect == null ? result : effects.apply(choice.effect, image, result, face);
        }
        long done = System.nanoTime();
        return new Shown(image, result, faces.size(), (found - begun) / 1e6, (erased - found) / 1e6, (done - erased) / 1e6);
    }
}
