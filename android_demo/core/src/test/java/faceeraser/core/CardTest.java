package faceeraser.core;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertTrue;

import org.json.JSONArray;
import org.json.JSONObject;
import org.junit.Test;

/** What cards may say, and what is said of those that cannot be used. */
public class CardTest {
    private static String port(String name, String dtype, String layout, String shape, String quantization) {
        return String.format("{'name': '%s', 'dtype': '%s', 'layout': '%s', 'shape': %s, 'range': [0.0, 1.0], "
                + "'quantization': %s}", name, dtype, layout, shape, quantization).replace('\'', '"');
    }

    private static Card card(String image, String edges, int format) {
        return new Card(("{'format': " + format + ", 'resolution': 2, 'precision': 'int8', 'edges': '" + edges
                + "', 'sha256': 'x', 'inputs': [" + image + "], 'outputs': []}").replace('\'', '"'));
    }

    private static String said(Runnable wrong) {
        try {
            wrong.run();
        } catch (IllegalArgumentException error) {
            return error.getMessage();
        }
        throw new AssertionError("taken");
    }

    @Test
    public void floatsGoInAsTheyAreAndComeBack() {
        Card.Port port = card(port("image", "float32", "NHWC", "[1, 1, 2, 3]", "null"), "inside", 1).inputs.get(0);
        float[] values = {0, 0.5f, 1, 0.25f, 0.75f, 0.1f};
        assertArrayEquals(values, (float[]) port.pack(values), 0);
        assertArrayEquals(values, port.unpack(values), 0);
    }

    @Test
    public void channelsMayComeFirst() {
        Card.Port port = card(port("image", "float32", "NCHW", "[1, 3, 1, 2]", "null"), "inside", 1).inputs.get(0);
        float[] pixels = {0.1f, 0.2f, 0.3f, 0.4f, 0.5f, 0.6f};
        float[] planes = {0.1f, 0.4f, 0.2f, 0.5f, 0.3f, 0.6f};
        assertArrayEquals(planes, (float[]) port.pack(pixels), 0);
        assertArrayEquals(pixels, port.unpack(planes), 0);
    }

    @Test
    public void unsignedBytesArePlainPicturesAndMasksAreOneOrZero() {
        Card.Port image = card(port("image", "uint8", "NHWC", "[1, 1, 1, 3]", "null"), "inside", 1).inputs.get(0);
        assertArrayEquals(new byte[] {0, (byte) 128, (byte) 255}, (byte[]) image.pack(new float[] {0, 128 / 255f, 1}));
        assertEquals(128 / 255f, image.unpack(new byte[] {0, (byte) 128, (byte) 255})[1], 1e-6);
        Card.Port mask = card(port("mask", "uint8", "NHWC", "[1, 1, 2, 1]", "null"), "inside", 1).inputs.get(0);
        assertArrayEquals(new byte[] {0, 1}, (byte[]) mask.pack(new float[] {0, 1}));
    }

    @Test
    public void aListsNumbersAreTakenAsTheyAre() {
        String told = port("sources", "float32", "NC", "[1, 3]", "null").replace("[0.0, 1.0]", "[0.0, 840.0]");
        Card.Port port = card(told, "inside", 1).inputs.get(0);
        assertArrayEquals(new float[] {0, 7, 840}, port.unpack(new float[] {0, 7, 840}), 0);
        assertTrue(said(() -> port.unpack(new float[2])).contains("expected 3"));
        assertTrue(said(() -> card(told.replace("NC", "NHWC"), "inside", 1)).contains("one list"));
    }

    @Test
    public void quantizedBytesFollowScaleAndZeroPoint() {
        String told = "{'scale': 0.00392156862745098, 'zero_point': -128}";
        Card.Port port = card(port("image", "int8", "NHWC", "[1, 1, 1, 3]", told), "inside", 1).inputs.get(0);
        assertArrayEquals(new byte[] {-128, 0, 127}, (byte[]) port.pack(new float[] {0, 128 / 255f, 1}));
        assertEquals(1, port.unpack(new byte[] {-128, 0, 127})[2], 1e-6);
    }

    @Test
    public void whatCannotBeFilledIsRefusedAndSaid() {
        String good = port("image", "float32", "NHWC", "[1, 2, 2, 3]", "null");
        assertTrue(said(() -> card(good, "inside", 7)).contains("format 7"));
        assertTrue(said(() -> card(good, "input", 1)).contains("Canny"));
        assertTrue(said(() -> card(good.replace("float32", "float16"), "inside", 1)).contains("float16"));
        assertTrue(said(() -> card(good.replace("NHWC", "?"), "inside", 1)).contains("layout"));
        assertTrue(said(() -> new Card("no JSON")).contains("the model's card"));
        assertTrue(said(() -> card(good, "inside", 1).check(new byte[3])).contains("do not belong together"));
        assertTrue(said(() -> card(good, "inside", 1).inputs.get(0).pack(new float[5])).contains("expected 12"));
    }

    @Test
    public void anEraserWantsAnImageAMaskAndAPlanOrOnePicture() throws Exception {
        String shipped = Golden.text("faceeraser/weights/plan.tflite.json");
        String renamed = shipped.replace("\"name\": \"mask\"", "\"name\": \"hole\"");
        assertTrue(said(() -> new Eraser(new Card(renamed), null, null)).contains("hole"));
        JSONObject none = new JSONObject(shipped);
        none.put("outputs", new JSONArray());
        assertTrue(said(() -> new Eraser(new Card(none.toString()), null, null)).contains("0 outputs"));
        String half = shipped.replace("\"name\": \"skin\"", "\"name\": \"hair\"");
        assertTrue(said(() -> new Eraser(new Card(half), null, null)).contains("skin"));
    }
}
