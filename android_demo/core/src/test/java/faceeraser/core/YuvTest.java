package faceeraser.core;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertTrue;

import java.nio.ByteBuffer;
import java.util.Arrays;
import org.json.JSONObject;
import org.junit.Test;

/** A camera's planes as RGB, against Pillow's conversion. */
public class YuvTest {
    private static final int WIDTH = 96;
    private static final int HEIGHT = 64;

    private static Picture upright(int degrees, boolean mirrored) throws Exception {
        JSONObject told = Golden.camera().getJSONObject("yuv");
        assertEquals(WIDTH, told.getInt("width"));
        assertEquals(HEIGHT, told.getInt("height"));
        byte[] luma = Golden.bytes(told.getJSONObject("luma"));
        byte[] chroma = Golden.bytes(told.getJSONObject("chroma"));
        int stride = luma.length / HEIGHT;
        Yuv.Plane y = new Yuv.Plane(ByteBuffer.wrap(luma), stride, 1);
        Yuv.Plane v = new Yuv.Plane(ByteBuffer.wrap(chroma), stride, 2);
        Yuv.Plane u = new Yuv.Plane(ByteBuffer.wrap(chroma, 1, chroma.length - 1).slice(), stride, 2);
        return Yuv.rgb(y, u, v, WIDTH, HEIGHT, degrees, mirrored);
    }

    @Test
    public void coloursAreThoseOfPillow() throws Exception {
        Close.pictures(Golden.picture(Golden.camera().getJSONObject("yuv").getJSONObject("rgb")), upright(0, false), 0.5, 1);
    }

    @Test
    public void aPhoneHeldUprightTurnsWhatItsSensorSees() {
        // Most phones: the sensor behind is turned by 90 degrees, the one in front by 270.
        assertEquals(90, Yuv.turn(90, 0, false));
        assertEquals(270, Yuv.turn(270, 0, true));
        // On its left side the display is turned by 90, and both sensors lie as the picture does.
        assertEquals(0, Yuv.turn(90, 90, false));
        assertEquals(0, Yuv.turn(270, 90, true));
        assertEquals(180, Yuv.turn(90, 270, false));
    }

    @Test
    public void aTurnedPictureStandsUpright() throws Exception {
        Picture straight = upright(0, false);
        Picture right = upright(90, false);
        assertEquals(HEIGHT, right.width);
        assertEquals(WIDTH, right.height);
        // Clockwise: the left column, from the bottom up, becomes the top row, from left to right.
        for (int c = 0; c < 3; c++) {
            assertEquals(straight.at(0, HEIGHT - 1, c), right.at(0, 0, c));
            assertEquals(straight.at(0, 0, c), right.at(HEIGHT - 1, 0, c));
            assertEquals(straight.at(7, 5, c), right.at(HEIGHT - 1 - 5, 7, c));
            assertEquals(straight.at(7, 5, c), upright(180, false).at(WIDTH - 1 - 7, HEIGHT - 1 - 5, c));
            assertEquals(straight.at(7, 5, c), upright(270, false).at(5, WIDTH - 1 - 7, c));
            assertEquals(straight.at(7, 5, c), upright(0, true).at(WIDTH - 1 - 7, 5, c));
            assertEquals(straight.at(7, 5, c), upright(90, true).at(5, 7, c));
        }
        assertTrue(Arrays.equals(upright(-90, false).rgb, upright(270, false).rgb));
    }
}
