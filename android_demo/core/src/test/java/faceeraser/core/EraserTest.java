package faceeraser.core;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertNotNull;
import static org.junit.Assert.assertNull;
import static org.junit.Assert.assertTrue;

import java.nio.file.Files;
import java.util.Arrays;
import java.util.Iterator;
import org.json.JSONArray;
import org.json.JSONObject;
import org.junit.Test;

/** Alignment, masks, the model's input, painting and pasting back, against Python. */
public class EraserTest {
    private static final int SIZE = 256;

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
        assertEquals(known.getDouble("margin"), Parts.MARGIN, 0);
        assertEquals(known.getDouble("least_dilation"), Parts.LEAST, 0);
        JSONObject creases = known.getJSONObject("creases");
        assertEquals(creases.getDouble("darker"), Parts.CREASE, 0);
        assertEquals(creases.getDouble("valley"), Parts.VALLEY, 0);
        assertEquals(creases.getDouble("touches"), Parts.TOUCHES, 0);
        assertEquals(creases.getDouble("reaches"), Parts.REACHES, 0);
        assertEquals(creases.getDouble("around"), Parts.AROUND, 0);
        assertEquals(creases.getDouble("deeper"), Parts.DEEPER, 0);
    }

    @Test
    public void theCropIsThatOfPython() throws Exception {
        for (Golden golden : Golden.all()) {
            Affine found = golden.found().aligned(SIZE);
            Affine expected = golden.matrix();
            Close.numbers(new double[] {expected.xx, expected.xy, expected.x0, expected.yx, expected.yy, expected.y0},
                    new double[] {found.xx, found.xy, found.x0, found.yx, found.yy, found.y0}, 1e-3);
            for (boolean sharp : new boolean[] {false, true}) {
                Picture crop = Sampling.cut(golden.picture(), expected, SIZE, SIZE, sharp);
                Close.pictures(Golden.picture(golden.of(sharp ? "sharp" : "crop")), crop, 0.002, 1);
            }
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
    public void creasesThatBeginAtAMaskAreThoseOfPython() throws Exception {
        for (Golden golden : Golden.all()) {
            Face level = golden.found().moved(golden.matrix());
            Mask mask = Golden.mask(golden.of("masks").getJSONObject(Golden.ALL));
            Mask creased = Parts.withCreases(mask, Golden.picture(golden.of("lined")), level);
            Close.masks(Golden.mask(golden.of("creased")), creased, 0.001);
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
        Mask closed = Shapes.closed(slit, 3.5);
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
        Golden.Replay planner = golden.planner();
        Picture crop = Golden.picture(golden.of("crop"));
        Mask mask = Golden.mask(golden.of("bare"));
        Card card = Golden.card();
        Picture painted = new Eraser(card, planner, null).paint(crop, mask);
        Close.pictures(Golden.picture(golden.of("painted")), painted, 0.001, 0);
        Object[] asked = planner.asked.remove();
        int middle = SIZE * SIZE / 2 + SIZE / 2;
        assertEquals("image", card.inputs.get(0).name);
        assertEquals(crop.rgb.length, ((float[]) asked[0]).length);
        assertEquals((crop.rgb[3 * middle + 1] & 0xff) / 255f, ((float[]) asked[0])[3 * middle + 1], 0);
        assertEquals("mask", card.inputs.get(1).name);
        assertEquals(1, ((float[]) asked[1])[middle], 0);
        assertEquals(0, ((float[]) asked[1])[0], 0);
    }

    @Test
    public void theShippedCardBelongsToTheShippedModel() throws Exception {
        assertEquals(SIZE, Golden.card().resolution);
        Golden.card().check(Files.readAllBytes(Golden.ROOT.resolve("faceeraser/weights/plan.tflite")));
    }

    @Test
    public void theGridsOfAPlanAndTheBoundAreThoseOfPython() throws Exception {
        JSONObject known = Golden.face().getJSONObject("known").getJSONObject("painting");
        assertEquals(known.getInt("seen"), Painting.SEEN);
        assertEquals(known.getInt("shaded"), Painting.SHADED);
        assertEquals(known.getInt("blocks"), Painting.BLOCKS);
        assertEquals(known.getDouble("bound"), Painting.BOUND, 0);
        assertEquals(known.getDouble("deviation"), Painting.DEVIATION, 0);
        assertEquals(known.getDouble("most_deviation"), Painting.MOST_DEVIATION, 0);
        assertEquals(known.getDouble("softened"), Painting.SOFTENED, 0);
        assertEquals(known.getDouble("least_share"), Painting.LEAST_SHARE, 0);
        assertEquals(known.getJSONObject("clean").getDouble("slope"), Painting.SLOPE, 0);
        assertEquals(known.getJSONObject("clean").getDouble("offset"), Painting.OFFSET, 1e-7);
        double[] luma = Golden.line(known.getJSONArray("luma"));
        Close.numbers(luma, new double[] {Painting.LUMA[0], Painting.LUMA[1], Painting.LUMA[2]}, 1e-7);
        assertEquals(known.getJSONObject("held").getDouble("least"), Held.LEAST, 0);
        assertEquals(known.getJSONObject("held").getDouble("share"), Held.SHARE, 0);
        assertEquals(known.getJSONObject("held").getDouble("fresh"), Held.FRESH, 0);
        assertEquals(known.getJSONObject("held").getDouble("cut"), Held.CUT, 0);
        JSONObject said = Golden.face().getJSONObject("known").getJSONObject("said");
        assertEquals(said.getInt("every"), Said.EVERY);
        assertEquals(said.getInt("side"), Said.SIDE);
        assertEquals(said.getDouble("lit"), Said.LIT, 0);
        assertEquals(said.getDouble("plan"), Said.PLAN, 0);
        assertEquals(said.getDouble("hidden"), Said.HIDDEN, 0);
        assertEquals(said.getDouble("moved"), Said.MOVED, 0);
        assertEquals(said.getJSONArray("points").length(), Said.POINTS.length);
        JSONObject occluders = Golden.face().getJSONObject("known").getJSONObject("occluders");
        assertEquals(occluders.getInt("side"), Occluders.SIDE);
        assertEquals(occluders.getDouble("in_front"), Occluders.IN_FRONT, 0);
        assertEquals(occluders.getDouble("wholly"), Occluders.WHOLLY, 0);
        assertEquals(occluders.getDouble("fades"), Occluders.FADES, 0);
    }

    /** A grey crop, its middle erased; `change` is added to the levels of a square in the middle or in a corner. */
    private static Picture grey(int change, boolean middle) {
        Picture crop = new Picture(256, 256);
        for (int i = 0; i < 256 * 256; i++) {
            int x = i % 256;
            int y = i / 256;
            boolean there = middle ? Math.abs(x - 128) < 20 && Math.abs(y - 128) < 20 : x < 40 && y < 40;
            Arrays.fill(crop.rgb, 3 * i, 3 * i + 3, (byte) (120 + (there ? change : 0)));
        }
        return crop;
    }

    @Test
    public void anAnswerHoldsForSomeFramesOfAFaceThatStaysAsItIs() {
        Mask mask = new Mask(256, 256);
        for (int i = 0; i < 256 * 256; i++) {
            mask.on[i] = (byte) (Math.abs(i % 256 - 128) < 40 && Math.abs(i / 256 - 128) < 40 ? 1 : 0);
        }
        float[] skin = new float[Painting.SEEN * Painting.SEEN];
        Arrays.fill(skin, 1);
        float[] shading = new float[3 * Painting.SHADED * Painting.SHADED];
        float[] sources = new float[Painting.CORNERS * Painting.CORNERS];
        Arrays.fill(sources, 100);
        double[] points = new double[2 * Said.POINTS.length];
        double[] far = points.clone();
        far[0] = 2 * Said.MOVED * 256;
        Plan plan = new Plan(skin, shading, sources);
        Said.Answer answer = new Said.Answer(Parts.EYES, points, new Occluders.Trimmed(mask, null), plan);
        Said said = new Said();
        said.take(1, grey(0, true), answer);
        assertNull("another face", said.of(2, grey(0, true), Parts.EYES, points));
        assertNull("another choice", said.of(1, grey(0, true), Parts.NOSE, points));
        assertNull("a visible place changes", said.of(1, grey((int) (3 * Said.PLAN), false), Parts.EYES, points));
        assertNotNull("a codec flickers", said.of(1, grey(2, false), Parts.EYES, points));
        assertTrue(said.covers());
        assertNotNull("a part moves", said.of(1, grey(0, true), Parts.EYES, far));
        assertFalse(said.covers());
        assertNotNull("an eye blinks", said.of(1, grey((int) (2 * Said.HIDDEN), true), Parts.EYES, points));
        assertFalse(said.covers());
        assertNotNull("nothing changes", said.of(1, grey(0, true), Parts.EYES, points));
        assertTrue(said.covers());
        assertNull("it has held long enough", said.of(1, grey(0, true), Parts.EYES, points));
    }

    @Test
    public void aPlanIsPaintedAsInPythonAlsoBehindWhatIsInFrontAndInGrey() throws Exception {
        for (Golden golden : Golden.all()) {
            for (String what : new String[] {"", "_fringe"}) {
                Picture picture = golden.picture();
                Painting.paint(picture, Golden.mask(golden.of("bare" + what)), Golden.picture(golden.of("crop")),
                        golden.plan("plan" + what), golden.matrix(), Golden.floats(golden.of("share" + what)), false);
                Close.pictures(Golden.picture(golden.of("erased" + what)), picture, 0.0002, 0);
            }
            Picture frame = golden.picture();
            Painting.paint(frame, Golden.mask(golden.of("bare")), Golden.picture(golden.of("crop")), golden.plan("plan"),
                    golden.matrix(), Golden.floats(golden.of("share")), true);
            Close.pictures(Golden.picture(golden.of("erased_moving")), frame, 0.0002, 0);
            Picture grey = Golden.picture(golden.of("picture_grey"));
            Plan plan = golden.plan("plan");
            Painting.paint(grey, Golden.mask(golden.of("bare")), Golden.picture(golden.of("crop_grey")), plan,
                    golden.matrix(), null, false);
            Close.pictures(Golden.picture(golden.of("erased_grey")), grey, 0.0002, 0);
            assertEquals(golden.number("skin_of"), Painting.skinOf(plan.skin, plan.sources), 1e-5);
        }
    }

    @Test
    public void whatIsInFrontIsTakenOutOfTheMask() throws Exception {
        for (Golden golden : Golden.all()) {
            Mask mask = Golden.mask(golden.of("whole"));
            for (String what : new String[] {"", "_fringe"}) {
                Occluders.Trimmed found = Occluders.trimmed(mask, Golden.floats(golden.of("front" + what)));
                Close.masks(Golden.mask(golden.of("bare" + what)), found.mask, 0.0005);
                float[] share = Golden.floats(golden.of("share" + what));
                double apart = 0;
                for (int i = 0; i < share.length; i++) {
                    apart += Math.abs(share[i] - found.share[i]);
                }
                assertEquals(0, apart / share.length, 1e-5);
            }
        }
    }

    @Test
    public void theNetworkForWhatIsInFrontIsGivenTheCropAtItsSize() throws Exception {
        Golden golden = Golden.upright();
        Picture crop = Golden.picture(golden.of("crop"));
        Golden.Replay network = new Golden.Replay(new Object[][] {{Golden.floats(golden.of("front"))}});
        Mask mask = Golden.mask(golden.of("whole"));
        Occluders.Trimmed found = new Occluders(network).trimmed(mask, crop);
        Close.masks(Golden.mask(golden.of("bare")), found.mask, 0.0005);
        float[] asked = (float[]) network.asked.remove()[0];
        assertEquals(3 * Occluders.SIDE * Occluders.SIDE, asked.length);
        double mean = 0;
        for (int y = 0; y < 2; y++) {
            for (int x = 0; x < 2; x++) {
                mean += crop.at(100 + x, 120 + y, 1) / 4.0;
            }
        }
        assertEquals(mean / 255, asked[3 * (60 * Occluders.SIDE + 50) + 1], 0.51 / 255);
    }

    @Test
    public void theSourcesOfAFaceAreHeldForAsLongAsTheyAreSkin() throws Exception {
        JSONArray frames = Golden.face().getJSONArray("held");
        Held held = new Held();
        for (int i = 0; i < frames.length(); i++) {
            JSONObject frame = frames.getJSONObject(i);
            Plan plan = new Plan(Golden.floats(frame.getJSONObject("skin")), Golden.floats(frame.getJSONObject("shading")),
                    Golden.floats(frame.getJSONObject("sources")));
            Plan steady = held.steady(frame.getInt("number"), plan);
            assertArrayEquals("frame " + i, Golden.floats(frame.getJSONObject("steady")), steady.sources, 0);
            assertArrayEquals("frame " + i, Golden.floats(frame.getJSONObject("shaded")), steady.shading, 1e-6f);
        }
    }

    @Test
    public void theErasedPictureIsThatOfPython() throws Exception {
        for (Golden golden : Golden.all()) {
            Picture picture = golden.picture();
            Eraser eraser = new Eraser(Golden.card(), golden.planner(), golden.occluders());
            Picture erased = eraser.erase(picture, golden.found(), Parts.FEATURES, Eraser.ALONE);
            Close.pictures(Golden.picture(golden.of("erased")), erased, 0.002, 1);
            float[] share = Golden.floats(golden.of("share"));
            Mask mask = new Mask(SIZE, SIZE); // and where paint fades out beside it
            for (int i = 0; i < share.length; i++) {
                mask.on[i] = (byte) (share[i] > 0 ? 1 : 0);
            }
            Mask there = mask.warped(golden.matrix().inverse(), new Box(0, 0, picture.width, picture.height));
            int beside = 0;
            for (int i = 0; i < picture.rgb.length; i++) {
                beside += there.on[i / 3] == 0 && erased.rgb[i] != picture.rgb[i] ? 1 : 0;
            }
            // Which pixels are painted is decided by a linear sample, not by the nearest pixel: the rim may differ.
            assertTrue("outside of the mask: " + beside, beside < 0.002 * picture.rgb.length);
        }
    }

    @Test
    public void aVideosFaceKeepsItsSourcesUntilItIsForgotten() throws Exception {
        Golden golden = Golden.upright();
        Golden.Replay planner = golden.planner();
        Object[] first = planner.answers.peek();
        Object[] other = first.clone();
        other[2] = new float[((float[]) first[2]).length];
        Arrays.fill((float[]) other[2], ((float[]) first[2])[144]);
        planner.answers.add(other);
        planner.answers.add(other);
        Eraser eraser = new Eraser(Golden.card(), planner, golden.occluders());
        Picture picture = golden.picture();
        Picture one = eraser.erase(picture, golden.found(), Parts.FEATURES, 1);
        assertArrayEquals(one.rgb, eraser.erase(picture, golden.found(), Parts.FEATURES, 1).rgb);
        eraser.forget();
        assertTrue(!Arrays.equals(one.rgb, eraser.erase(picture, golden.found(), Parts.FEATURES, 1).rgb));
    }

    @Test
    public void aFileThatPaintsIsPastedBack() throws Exception {
        for (Golden golden : Golden.all()) {
            byte[] painted = Golden.bytes(golden.of("painted"));
            float[] floats = new float[painted.length];
            for (int i = 0; i < floats.length; i++) {
                floats[i] = (painted[i] & 0xff) / 255f;
            }
            Eraser eraser = new Eraser(paints(), inputs -> new Object[] {floats}, golden.occluders());
            Picture picture = golden.picture();
            Picture erased = eraser.erase(picture, golden.found(), Parts.FEATURES, Eraser.ALONE);
            Close.pictures(Golden.picture(golden.of("pasted")), erased, 0.002, 1);
            Mask mask = Golden.mask(golden.of("whole"));
            Mask there = mask.warped(golden.matrix().inverse(), new Box(0, 0, picture.width, picture.height));
            for (int i = 0; i < picture.rgb.length; i++) {
                assertTrue("outside of the mask", there.on[i / 3] != 0 || erased.rgb[i] == picture.rgb[i]);
            }
        }
    }

    /** The card of a file that takes what the shipped one takes, and paints. */
    private static Card paints() throws Exception {
        JSONObject told = new JSONObject(Golden.text("faceeraser/weights/plan.tflite.json"));
        JSONObject picture = new JSONObject(told.getJSONArray("inputs").getJSONObject(0).toString());
        told.put("outputs", new JSONArray().put(picture.put("name", "erased")));
        return new Card(told.toString());
    }

    @Test
    public void modelsAgreeWhenTheyPaintTheSame() throws Exception {
        Model grey = inputs -> new Object[] {painted(0.5f)};
        Model nearly = inputs -> new Object[] {painted(0.5f + 1 / 255f)};
        Model other = inputs -> new Object[] {painted(0.53f)};
        assertTrue(Eraser.agree(paints(), grey, nearly));
        assertTrue(!Eraser.agree(paints(), grey, other));
        assertTrue(!Eraser.agree(paints(), inputs -> new Object[] {painted(Float.NaN)}, grey));
    }

    @Test
    public void modelsAgreeWhenTheyPlanTheSame() throws Exception {
        assertTrue(Eraser.agree(Golden.card(), planning(0.5f, 0), planning(0.501f, 0)));
        assertTrue("darker", !Eraser.agree(Golden.card(), planning(0.5f, 0), planning(0.45f, 0)));
        assertTrue("from elsewhere", !Eraser.agree(Golden.card(), planning(0.5f, 0), planning(0.5f, 300)));
        assertTrue(!Eraser.agree(Golden.card(), planning(Float.NaN, 0), planning(0.5f, 0)));
    }

    private static Model planning(float level, int source) {
        float[] skin = new float[Painting.SEEN * Painting.SEEN];
        float[] shading = new float[3 * Painting.SHADED * Painting.SHADED];
        float[] sources = new float[Painting.CORNERS * Painting.CORNERS];
        Arrays.fill(skin, 1);
        Arrays.fill(shading, level);
        Arrays.fill(sources, source);
        return inputs -> new Object[] {skin, shading, sources};
    }

    private static float[] painted(float level) {
        float[] painted = new float[3 * SIZE * SIZE];
        Arrays.fill(painted, level);
        return painted;
    }

    @Test
    public void aFaceBeyondThePictureChangesNothing() throws Exception {
        Golden golden = Golden.upright();
        Picture picture = golden.picture();
        Mask mask = Golden.mask(golden.of("whole"));
        Affine away = golden.matrix().after(Affine.shift(2000, 0));
        Picture pasted = Eraser.pasteBack(picture, Golden.picture(golden.of("painted")), away, mask);
        assertArrayEquals(picture.rgb, pasted.rgb);
        Picture painted = picture.copy();
        Painting.paint(painted, mask, Golden.picture(golden.of("crop")), golden.plan("plan"), away, null, false);
        assertArrayEquals(picture.rgb, painted.rgb);
    }
}
