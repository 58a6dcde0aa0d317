package faceeraser.core;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertTrue;

import java.util.Arrays;

/** How close a port has to come. OpenCV counts in fixed point here and there; a level or a pixel on a rim may differ. */
final class Close {
    private Close() {
    }

    /**
     * Two pictures are alike: the mean difference, and that of all but one number in a thousand.
     *
     * @param mean in levels of 0 to 255
     * @param most in levels, for 99.9 % of the numbers
     */
    static void pictures(Picture expected, Picture found, double mean, int most) {
        assertEquals("width", expected.width, found.width);
        assertEquals("height", expected.height, found.height);
        int[] apart = new int[expected.rgb.length];
        for (int i = 0; i < apart.length; i++) {
            apart[i] = Math.abs((expected.rgb[i] & 0xff) - (found.rgb[i] & 0xff));
        }
        double average = Arrays.stream(apart).average().orElse(0);
        Arrays.sort(apart);
        int rare = apart[(int) (0.999 * apart.length)];
        String said = String.format("mean %.4f, 99.9 %% within %d, all within %d", average, rare, apart[apart.length - 1]);
        assertTrue(said, average <= mean && rare <= most);
    }

    /** Two masks are alike: pixels that differ, as a share of those that are on in the first. */
    static void masks(Mask expected, Mask found, double share) {
        int on = 0;
        int apart = 0;
        for (int i = 0; i < expected.on.length; i++) {
            on += expected.on[i];
            apart += expected.on[i] != found.on[i] ? 1 : 0;
        }
        String said = String.format("%d of %d pixels differ", apart, on);
        assertTrue("the expected mask is empty", on > 0);
        assertTrue(said, apart <= share * on);
    }

    /** A model is given alike: nowhere more than a level of 8 bits apart, and on average five thousandths of one. */
    static void inputs(float[] expected, float[] found, double level) {
        assertEquals("how many", expected.length, found.length);
        double sum = 0;
        for (int i = 0; i < expected.length; i++) {
            assertEquals("number " + i, expected[i], found[i], 1.01 * level);
            sum += Math.abs(expected[i] - found[i]);
        }
        assertEquals("on average", 0, sum / expected.length, 0.005 * level);
    }

    /** Two lists of numbers are alike. */
    static void numbers(double[] expected, double[] found, double most) {
        assertEquals("how many", expected.length, found.length);
        for (int i = 0; i < expected.length; i++) {
            assertEquals("number " + i, expected[i], found[i], most);
        }
    }
}
