package faceeraser.core;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;

import org.junit.Test;

/** The whole way from a picture to what is shown, with the models' recorded answers. */
public class SceneTest {
    private static Scene scene(Golden golden) throws Exception {
        Golden.Replay models = golden.models();
        FaceFinder finder = new FaceFinder(models, models);
        return new Scene(finder, new Tracker(finder, Golden.text("faceeraser/face/tracking.json")),
                new Eraser(Golden.card(), golden.planner(), golden.occluders()),
                new Effects(Golden.text("faceeraser/face/effects.json")));
    }

    @Test
    public void aPhotographComesOutAsInPython() throws Exception {
        Golden golden = Golden.upright();
        Scene.Shown shown = scene(golden).photograph(golden.picture(), new Scene.Choice(Parts.FEATURES, null));
        assertEquals(1, shown.faces);
        Close.pictures(Golden.picture(golden.of("erased")), shown.after, 0.002, 1);
        assertArrayEquals(golden.picture().rgb, shown.before.rgb);
    }

    @Test
    public void withAnEffectItComesOutAsInPythonWhateverPartsAreChosen() throws Exception {
        Golden golden = Golden.upright();
        Scene.Shown shown = scene(golden).photograph(golden.picture(), new Scene.Choice(0, "toonized"));
        assertEquals(1, shown.faces);
        Close.pictures(Golden.picture(golden.of("effects").getJSONObject("toonized")), shown.after, 0.001, 1);
    }

    @Test
    public void aFrameComesOutAsInPythonWhoseWindowsMoveByFractionsOfPixels() throws Exception {
        Golden golden = Golden.upright();
        Scene.Shown shown = scene(golden).frame(golden.picture(), 1 / 30.0, new Scene.Choice(Parts.FEATURES, null));
        assertEquals(1, shown.faces);
        Close.pictures(Golden.picture(golden.of("erased_moving")), shown.after, 0.002, 1);
    }

    @Test
    public void withNothingChosenThePictureIsLeftAlone() throws Exception {
        Golden golden = Golden.upright();
        Scene.Shown shown = scene(golden).photograph(golden.picture(), new Scene.Choice(0, null));
        assertArrayEquals(golden.picture().rgb, shown.after.rgb);
    }
}
