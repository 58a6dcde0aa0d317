package faceeraser.core;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertNotNull;
import static org.junit.Assert.assertNull;
import static org.junit.Assert.assertTrue;

import java.util.Arrays;
import java.util.List;
import org.json.JSONObject;
import org.junit.Test;

/** Finding faces, against what Python gave the models and made of their answers. */
public class FaceFinderTest {
    private static final double LEVEL = 1 / 127.5; // of 8 bits, for the detector; for the mesh it is half of that

    @Test
    public void theModelsAreGivenWhatPythonGivesThemAndTheMeshIsThatOfPython() throws Exception {
        for (Golden golden : Golden.all()) {
            Golden.Replay models = golden.models();
            FaceFinder finder = new FaceFinder(models, models);
            List<Face> faces = finder.find(golden.picture());
            assertEquals(golden.name, golden.detections().length(), faces.size());
            Close.numbers(golden.pointsOf("mesh"), faces.get(0).points(), 2e-3);
            Close.numbers(golden.pointsOf("eyes"), faces.get(0).eyes, 2e-3);
            assertEquals(golden.number("eye_distance"), faces.get(0).eyeDistance, 1e-3);
            assertEquals(golden.number("roll"), faces.get(0).roll, 1e-3);
            assertEquals(golden.detections().getJSONObject(0).getDouble("score"), faces.get(0).score, 1e-6);
            Face followed = finder.follow(golden.picture(), faces.get(0));
            assertNotNull(followed);
            Close.numbers(golden.pointsOf("followed"), followed.points(), 2e-3);
            assertEquals("all that was recorded was asked for", 0, models.answers.size());
            for (float[] expected : models.expected) {
                Close.inputs(expected, (float[]) models.asked.remove()[0], LEVEL);
            }
        }
    }

    @Test
    public void candidatesAreDecodedAndMerged() throws Exception {
        Golden golden = Golden.upright();
        List<Detection> found = new FaceFinder(golden.models(), null).detect(golden.picture(), true);
        assertEquals(golden.detections().length(), found.size());
        JSONObject expected = golden.detections().getJSONObject(0);
        Close.numbers(Golden.points(expected.getJSONArray("points")), found.get(0).points, 1e-3);
        assertEquals(expected.getDouble("score"), found.get(0).score, 1e-6);
    }

    @Test
    public void thereAre896AnchorsAndOnlySureCandidatesCount() throws Exception {
        Object[] answer = Golden.upright().models().answers.peek();
        float[] logits = (float[]) answer[1];
        assertEquals(896, logits.length);
        int sure = 0;
        for (float logit : logits) {
            sure += logit >= 0 ? 1 : 0;
        }
        assertTrue(sure > 1);
        assertEquals(sure, FaceFinder.decode((float[]) answer[0], logits).size());
    }

    @Test
    public void overlappingCandidatesBecomeTheirWeightedAverage() {
        double[] one = new double[16];
        one[2] = 10;
        one[3] = 10;
        double[] two = new double[16];
        two[2] = 10;
        two[3] = 14;
        double[] apart = {100, 100, 110, 110, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0};
        List<Detection> merged = FaceFinder.merged(Arrays.asList(
                new Detection(two, 0.6), new Detection(apart, 0.7), new Detection(one, 0.9)));
        assertEquals(2, merged.size());
        assertEquals((0.9 * 10 + 0.6 * 14) / 1.5, merged.get(0).points[3], 1e-9);
        assertEquals(100, merged.get(1).points[0], 1e-9);
    }

    @Test
    public void whatTheMeshModelDoubtsIsNoFace() throws Exception {
        Golden golden = Golden.upright();
        Golden.Replay models = golden.models();
        Object[] mesh = {models.answers.peekLast()[0], new float[] {-1}};
        Golden.Replay doubts = new Golden.Replay(models.answers.remove(), models.answers.remove(), mesh, mesh);
        FaceFinder finder = new FaceFinder(doubts, doubts);
        assertEquals(0, finder.find(golden.picture()).size());
        assertNull(finder.follow(golden.picture(), golden.found()));
    }

    @Test
    public void aPictureTooSmallForTheDetectorIsRefused() throws Exception {
        try {
            new FaceFinder(new Golden.Replay(), new Golden.Replay()).find(new Picture(64, 64));
        } catch (IllegalArgumentException error) {
            assertTrue(error.getMessage(), error.getMessage().contains("expected at least"));
            return;
        }
        throw new AssertionError("taken");
    }

    @Test
    public void withoutAFaceTheDetectorLooksCloserBeforeItGivesUp() throws Exception {
        Golden.Replay blind = new Golden.Replay();
        for (int i = 0; i < 11; i++) {
            float[] logits = new float[896];
            Arrays.fill(logits, -9);
            blind.answers.add(new Object[] {new float[896 * 16], logits});
        }
        Picture picture = new Picture(300, 300);
        FaceFinder finder = new FaceFinder(blind, blind);
        assertEquals(0, finder.detect(picture, false).size());
        assertEquals(1, blind.asked.size());
        assertEquals(0, finder.detect(picture, true).size());
        assertEquals("once the whole, and nine windows", 1 + 1 + 9, blind.asked.size());
    }
}
