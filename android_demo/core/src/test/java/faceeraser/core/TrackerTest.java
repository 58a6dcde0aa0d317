package faceeraser.core;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertTrue;

import java.util.List;
import org.json.JSONArray;
import org.json.JSONObject;
import org.junit.Test;

/** Faces of a video: the filter against Python's, and when the detector is asked. */
public class TrackerTest {
    private static final double STEP = 1 / 30.0;

    private static String constants() throws Exception {
        return Golden.text("faceeraser/face/tracking.json");
    }

    @Test
    public void theFilterIsThatOfPython() throws Exception {
        JSONObject told = Golden.camera().getJSONObject("filter");
        double[] units = Golden.line(told.getJSONArray("eye_distance"));
        double[] seconds = Golden.line(told.getJSONArray("seconds"));
        JSONArray points = told.getJSONArray("points");
        OneEuro filter = new OneEuro(new OneEuro.Settings(constants()));
        for (int i = 0; i < units.length; i++) {
            double[] smooth = filter.next(Golden.line(points.getJSONArray(i)), units[i], seconds[i]);
            Close.numbers(Golden.line(told.getJSONArray("smooth").getJSONArray(i)), smooth, 1e-9);
        }
    }

    /** The astronaut in every picture: the detector's answer and the mesh model's, as often as they are asked. */
    private static final class Video {
        final Golden golden = Golden.upright();
        final Picture picture = golden.picture();
        final Golden.Replay detector = new Golden.Replay();
        final Golden.Replay landmarker = new Golden.Replay();
        final Object[] detected = golden.models().answers.peekFirst();
        final Object[] mesh = golden.models().answers.peekLast();
        final Tracker tracker = new Tracker(new FaceFinder(detector, landmarker), constants());

        Video() throws Exception {
        }

        void answers(int looks, int passes) {
            for (int i = 0; i < looks; i++) {
                detector.answers.add(detected);
            }
            for (int i = 0; i < passes; i++) {
                landmarker.answers.add(mesh);
            }
        }
    }

    @Test
    public void aFaceIsFoundOnceAndThenFollowed() throws Exception {
        Video video = new Video();
        int every = new OneEuro.Settings(constants()).detectEvery;
        video.answers(1, 2 + every - 1);
        for (int i = 0; i < every; i++) {
            assertEquals(1, video.tracker.next(video.picture, STEP).size());
        }
        assertEquals(1, video.detector.asked.size());
        // Now and then others are looked for; the face that is known is not looked at again, and not counted twice.
        video.answers(1, 1);
        List<Tracker.Tracked> still = video.tracker.next(video.picture, STEP);
        assertEquals(1, still.size());
        assertEquals(1, still.get(0).number);
        assertEquals(2, video.detector.asked.size());
    }

    @Test
    public void aLostFaceIsLookedForAtOnce() throws Exception {
        Video video = new Video();
        video.answers(1, 2);
        video.tracker.next(video.picture, STEP);
        video.landmarker.answers.add(new Object[] {video.mesh[0], new float[] {-5}});
        video.answers(1, 2);
        List<Tracker.Tracked> again = video.tracker.next(video.picture, STEP);
        assertEquals(1, again.size());
        assertEquals(2, again.get(0).number);
        assertEquals(2, video.detector.asked.size());
    }

    @Test
    public void aFaceThatJumpsIsShownWhereItIs() throws Exception {
        Video video = new Video();
        video.answers(1, 2);
        video.tracker.next(video.picture, STEP);
        float[] far = ((float[]) video.mesh[0]).clone();
        for (int i = 0; i < far.length; i += 3) {
            far[i] += 150;
        }
        video.landmarker.answers.add(new Object[] {far, video.mesh[1]});
        Tracker.Tracked jumped = video.tracker.next(video.picture, STEP).get(0);
        assertEquals("what was held for it is not its any more", 2, jumped.number);
        double there = jumped.face.middleX() - video.golden.found().middleX();
        assertTrue("moved by " + there, there > 1.5 * video.golden.found().eyeDistance);
    }

    @Test
    public void afterForgettingTheDetectorIsAsked() throws Exception {
        Video video = new Video();
        video.answers(2, 4);
        video.tracker.next(video.picture, STEP);
        video.tracker.forget();
        video.tracker.next(video.picture, STEP);
        assertEquals(2, video.detector.asked.size());
    }

    @Test
    public void otherConstantsAreRefused() {
        try {
            new OneEuro.Settings("{\"beta\": 1}");
        } catch (IllegalArgumentException error) {
            assertTrue(error.getMessage(), error.getMessage().contains("min_cutoff_hz"));
            return;
        }
        throw new AssertionError("taken");
    }
}
