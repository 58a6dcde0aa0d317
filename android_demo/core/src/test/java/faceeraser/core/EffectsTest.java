package faceeraser.core;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertTrue;

import java.util.Arrays;
import java.util.Iterator;
import org.json.JSONArray;
import org.json.JSONObject;
import org.junit.Test;

/** The five effects of effects.json, against Python's with the fast blend. */
public class EffectsTest {
    private static Effects shipped() throws Exception {
        return new Effects(Golden.text("faceeraser/face/effects.json"));
    }

    @Test
    public void everyPieceOfPythonIsKnown() throws Exception {
        JSONObject pieces = Golden.face().getJSONObject("known").getJSONObject("pieces");
        assertEquals(pieces.length(), Effects.Piece.values().length);
        for (Iterator<?> names = pieces.keys(); names.hasNext();) {
            String name = (String) names.next();
            Effects.Piece piece = Effects.Piece.named(name);
            JSONArray parts = pieces.getJSONArray(name).getJSONArray(0);
            int bits = 0;
            for (int i = 0; i < parts.length(); i++) {
                bits |= 1 << Arrays.asList(Parts.NAMES).indexOf(parts.getString(i));
            }
            assertEquals(name, bits, piece.bits);
            assertEquals(name, pieces.getJSONArray(name).getInt(1), piece.side);
        }
    }

    @Test
    public void everyEffectLooksAsInPython() throws Exception {
        assertEquals(Arrays.asList("comic", "eyebrowless", "mono-eye", "small-face", "toonized"), shipped().names());
        for (Golden golden : Golden.all()) {
            Picture erased = Golden.picture(golden.of("erased"));
            for (String name : shipped().names()) {
                Picture found = shipped().apply(name, golden.picture(), erased, golden.found());
                Close.pictures(Golden.picture(golden.of("effects").getJSONObject(name)), found, 0.001, 1);
            }
        }
    }

    @Test
    public void aFaceInACornerKeepsWhatIsFarFromIt() throws Exception {
        Golden golden = Golden.upright();
        Picture image = golden.picture();
        Face cornered = golden.found().moved(Affine.shift(-golden.found().middleX(), -golden.found().middleY()));
        for (String name : shipped().names()) {
            Picture found = shipped().apply(name, image, image, cornered);
            int far = (int) (3 * cornered.eyeDistance);
            for (int i = 3 * far * image.width; i < found.rgb.length; i++) {
                assertEquals(image.rgb[i], found.rgb[i]);
            }
        }
    }

    @Test
    public void whatIsNotUnderstoodIsSaid() {
        String[][] wrong = {
            {"{}", "effects"},
            {"{'effects': {'one': {'elements': [{'piece': 'ear'}]}}}", "ear"},
            {"{'effects': {'one': {'elements': [{'piece': 'nose', 'size': 2}]}}}", "size"},
            {"{'effects': {'one': {'elements': [{'image': 'hat.png'}]}}}", "command line"},
            {"{'effects': {'one': {'elements': [{'piece': 'nose', 'scale': 0}]}}}", "above 0"},
            {"{'effects': {'one': {'elements': [{'piece': 'nose', 'to': [1]}]}}}", "two numbers"}};
        for (String[] one : wrong) {
            try {
                new Effects(one[0].replace('\'', '"'));
            } catch (IllegalArgumentException error) {
                assertTrue(error.getMessage(), error.getMessage().contains(one[1]));
                continue;
            }
            throw new AssertionError("taken: " + one[0]);
        }
    }
}
