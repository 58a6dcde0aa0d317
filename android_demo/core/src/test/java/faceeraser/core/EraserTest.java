package faceeraser.core;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertTrue;

import java.nio.file.Files;
import java.util.Arrays;
import java.util.Iterator;
import org.json.JSONArray;
import org.json.JSONObject;
import org.junit.Test;

/** Alignment, masks, the model's input, and pasting back, against Python. */
public class EraserTest {
    private static final int SIZE = 256;

    private static Card card() throws Exception {
        return new Card(Golden.text("faceeraser/weights/int8.tflite.json"));
    }

    private static int bits(String parts) {
        int bits = 0;
        for (String part : parts.split(",")) {
            bits |= 1 << Arrays.asList(Parts.NAMES).indexOf(part);
        }
        return bits;
    }

    private static int[] indices(JSONArray told) throws Exception {
        int[] indices = new int[told.length()];
        for (int i = 0; i < indices.length; i++) {
            indices[i] = told.getInt(i);
        }
        return indices;
    }

    @Test
    public void theMeshsListsAndTheDilationsAreThoseOfPython() throws Exception {
        JSONObject known = Golden.face().getJSONObject("known");
        assertEquals(known.getInt("mesh_points"), Face.MESH_POINTS);
        assertArrayEquals(indices(known.getJSONArray("right_eye")), Face.RIGHT_EYE);
        assertArrayEquals(indices(known.getJSONArray("left_eye")), Face.LEFT_EYE);
        assertArrayEquals(indices(known.getJSONArray("oval")), Face.OVAL);
        JSONObject polygons = known.getJSONObject("polygons");
        assertEquals(Parts.POLYGONS.length, polygons.length());
        for (int part = 0; part < Parts.POLYGONS.length; part++) {
            JSONArray listed = polygons.getJSONArray(Parts.NAMES[part]);
            assertEquals(listed.length(), Parts.POLYGONS[part].length);
            for (int i = 0; i < listed.length(); i++) {
                assertArrayEquals(indices(listed.getJSONArray(i)), Parts.POLYGONS[part][i]);
            }
            String name = Parts.NAMES[part];
            assertEquals(known.getJSONObject("dilation_erased").getDouble(name), Parts.DILATION_ERASED[part], 0);
            assertEquals(known.getJSONObject("piece_dilation").getDouble(name), Effects.DILATION[part], 0);
        }
        assertEquals(known.getDouble("dilation_eye_distance"), Parts.DILATION_EYE_DISTANCE, 0);
    }

    @Test
    public void theCropIsThatOfPython() throws Exception {
        for (Golden golden : Golden.all()) {
            Affine found = golden.found().aligned(SIZE);
            Affine expected = golden.matrix();
            Close.numbers(new double[] {expected.xx, expected.xy, expected.x0, expected.yx, expected.yy, expected.y0},
                    new double[] {found.xx, found.xy, found.x0, found.yx, found.yy, found.y0}, 1e-3);
            Picture crop = Sampling.cut(golden.picture(), expected, SIZE, SIZE);
            Close.pictures(Golden.picture(golden.of("crop")), crop, 0.002, 1);
        }
    }

    @Test
    public void everyMaskIsThatOfPython() throws Exception {
        for (Golden golden : Golden.all()) {
            Face level = golden.found().moved(golden.matrix());
            for (Iterator<?> names = golden.of("masks").keys(); names.hasNext();) {
                String parts = (String) names.next();
                Mask expected = Golden.mask(golden.of("masks").getJSONObject(parts));
                Close.masks(expected, Parts.erased(level, SIZE, bits(parts)), 0.001);
            }
        }
    }

    @Test
    public void drawnGlassesFitAndAreErasedWithWhatTheyCover() throws Exception {
        Golden golden = Golden.upright();
        Face level = golden.found().moved(golden.matrix());
        Mask pair = Parts.glasses(level, SIZE, SIZE);
        Mask expected = Golden.mask(Golden.camera().getJSONObject("glasses"));
        Close.masks(expected, pair, 0.06); // OpenCV rounds the ends of thick lines otherwise
        Mask without = Parts.erased(level, SIZE, Parts.EYES);
        Mask with = Parts.erased(level, SIZE, Parts.EYES | Parts.GLASSES);
        for (int i = 0; i < with.on.length; i++) {
            assertTrue(with.on[i] >= without.on[i] && with.on[i] >= pair.on[i]);
        }
    }

    @Test
    public void slitsAreClosedAndNothingElseMoves() {
        Mask slit = new Mask(40, 40);
        for (int y = 5; y < 35; y++) {
            for (int x = 5; x < 35; x++) {
                slit.on[y * 40 + x] = (byte) (x < 18 || x > 20 ? 1 : 0);
            }
        }
        Mask closed = Shapes.closed(slit, 7);
        assertEquals(1, closed.on[20 * 40 + 19]);
        for (int y = 0; y < 40; y++) {
            for (int x = 0; x < 40; x++) {
                boolean outside = x < 5 || y < 5 || x >= 35 || y >= 35;
                assertTrue(!outside || closed.on[y * 40 + x] == 0);
            }
        }
    }

    @Test
    public void theModelIsGivenWhatTheShippedCardSays() throws Exception {
        Golden golden = Golden.upright();
        Golden.Replay painter = golden.painter();
        Picture crop = Golden.picture(golden.of("crop"));
        Mask mask = Golden.mask(golden.of("masks").getJSONObject(Golden.ALL));
        assertArrayEquals(Golden.bytes(golden.of("painted")), new Eraser(card(), painter).paint(crop, mask).rgb);
        Object[] asked = painter.asked.remove();
        int middle = SIZE * SIZE / 2 + SIZE / 2;
        assertEquals("image", card().inputs.get(0).name);
        assertEquals(crop.rgb.length, ((float[]) asked[0]).length);
        assertEquals((crop.rgb[3 * middle + 1] & 0xff) / 255f, ((float[]) asked[0])[3 * middle + 1], 0);
        assertEquals("mask", card().inputs.get(1).name);
        assertEquals(1, ((float[]) asked[1])[middle], 0);
        assertEquals(0, ((float[]) asked[1])[0], 0);
    }

    @Test
    public void theShippedCardBelongsToTheShippedModel() throws Exception {
        assertEquals(SIZE, card().resolution);
        card().check(Files.readAllBytes(Golden.ROOT.resolve("faceeraser/weights/int8.tflite")));
    }

    @Test
    public void theErasedPictureIsThatOfPython() throws Exception {
        for (Golden golden : Golden.all()) {
            Picture picture = golden.picture();
            Picture erased = new Eraser(card(), golden.painter()).erase(picture, golden.found(), Parts.FEATURES);
            Close.pictures(Golden.picture(golden.of("erased")), erased, 0.002, 1);
            Mask mask = Parts.erased(golden.found().moved(golden.matrix()), SIZE, Parts.FEATURES);
            Mask there = mask.warped(golden.matrix().inverse(), new Box(0, 0, picture.width, picture.height));
            for (int i = 0; i < picture.rgb.length; i++) {
                assertTrue("outside of the mask", there.on[i / 3] != 0 || erased.rgb[i] == picture.rgb[i]);
            }
        }
    }

    @Test
    public void modelsAgreeWhenTheyPaintTheSame() throws Exception {
        Model grey = inputs -> new Object[] {painted(0.5f)};
        Model nearly = inputs -> new Object[] {painted(0.5f + 1 / 255f)};
        Model other = inputs -> new Object[] {painted(0.53f)};
        assertTrue(Eraser.agree(card(), grey, nearly));
        assertTrue(!Eraser.agree(card(), grey, other));
        assertTrue(!Eraser.agree(card(), inputs -> new Object[] {painted(Float.NaN)}, grey));
    }

    private static float[] painted(float level) {
        float[] painted = new float[3 * SIZE * SIZE];
        Arrays.fill(painted, level);
        return painted;
    }

    @Test
    public void aPastedFaceBeyondThePictureChangesNothing() throws Exception {
        Golden golden = Golden.upright();
        Picture picture = golden.picture();
        Mask mask = Golden.mask(golden.of("masks").getJSONObject(Golden.ALL));
        Affine away = golden.matrix().after(Affine.shift(2000, 0));
        Picture pasted = Eraser.pasteBack(picture, Golden.picture(golden.of("painted")), away, mask);
        assertArrayEquals(picture.rgb, pasted.rgb);
    }
}
