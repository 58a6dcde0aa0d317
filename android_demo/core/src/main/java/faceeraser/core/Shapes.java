package faceeraser.core;

import java.util.Arrays;

/** Drawing of masks: filled polygons, distances, the closing of hollows. The first two do what OpenCV's functions do. */
final class Shapes {
    private static final int SHIFT = 16; // fixed point: edges run at 1/65536 of a pixel, vertices lie on sixteenths

    private Shapes() {
    }

    /**
     * Fills a polygon and its outline with a value (fillPoly with vertices in sixteenths of a pixel; the even-odd rule).
     *
     * @param canvas width x height bytes, drawn into
     * @param points x, y, x, y, ...; what lies outside of the canvas is left out
     * @param convex rows begin and end at the nearest pixel, as fillConvexPoly has it, instead of the first one inside
     */
    static void fill(byte[] canvas, int width, int height, double[] points, byte value, boolean convex) {
        int count = points.length / 2;
        long[] xs = new long[count];
        int[] columns = new int[count];
        int[] rows = new int[count];
        for (int i = 0; i < count; i++) {
            int sixteenths = (int) Math.rint(points[2 * i] * 16);
            xs[i] = (long) sixteenths << (SHIFT - 4);
            columns[i] = sixteenths + 8 >> 4;
            rows[i] = (int) Math.rint(points[2 * i + 1] * 16) + 8 >> 4;
        }
        int top = height;
        int bottom = 0;
        for (int i = 0, j = count - 1; i < count; j = i++) {
            line(canvas, width, height, columns[j], rows[j], columns[i], rows[i], value);
            top = Math.min(top, Math.max(rows[i], 0));
            bottom = Math.max(bottom, Math.min(rows[i], height));
        }
        int half = 1 << (SHIFT - 1);
        int almost = (1 << SHIFT) - 1;
        long[] crossings = new long[count];
        for (int y = top; y < bottom; y++) {
            int found = 0;
            for (int i = 0, j = count - 1; i < count; j = i++) {
                int upper = rows[i] < rows[j] ? i : j;
                int lower = upper == i ? j : i;
                if (rows[upper] <= y && y < rows[lower]) {
                    long slope = (xs[lower] - xs[upper]) / (rows[lower] - rows[upper]);
                    crossings[found++] = xs[upper] + slope * (y - rows[upper]);
                }
            }
            Arrays.sort(crossings, 0, found);
            for (int i = 0; i + 1 < found; i += 2) {
                int from = Math.max((int) (crossings[i] + (convex ? half : almost) >> SHIFT), 0);
                int to = Math.min((int) (crossings[i + 1] + (convex ? half : 0) >> SHIFT), width - 1);
                if (from <= to) {
                    Arrays.fill(canvas, y * width + from, y * width + to + 1, value);
                }
            }
        }
    }

    /** A line one pixel wide between two pixels, drawn from left to right (Bresenham's). */
    static void line(byte[] canvas, int width, int height, int fromX, int fromY, int toX, int toY, byte value) {
        boolean swapped = toX < fromX;
        int x = swapped ? toX : fromX;
        int y = swapped ? toY : fromY;
        int dx = Math.abs(toX - fromX);
        int dy = Math.abs(toY - fromY);
        int stepY = swapped == toY < fromY ? 1 : -1;
        boolean steep = dy > dx;
        int along = Math.max(dx, dy);
        int aside = Math.min(dx, dy);
        int error = along - 2 * aside;
        for (int i = 0; i <= along; i++) {
            if (x >= 0 && x < width && y >= 0 && y < height) {
                canvas[y * width + x] = value;
            }
            boolean both = error < 0;
            error += both ? 2 * along - 2 * aside : -2 * aside;
            x += both || !steep ? 1 : 0;
            y += both || steep ? stepY : 0;
        }
    }

    /**
     * How far each pixel lies from the nearest pixel that is 0 (distanceTransform, DIST_L2, 5x5: Borgefors 1986).
     * Two sweeps; a step to the side, a diagonal one and a knight's cost 1, 1.4 and 2.1969 (here in 1/65536).
     */
    static float[] distance(byte[] canvas, int width, int height) {
        int[][] steps = {{-1, 0}, {0, -1}, {-1, -1}, {1, -1}, {-2, -1}, {2, -1}, {-1, -2}, {1, -2}};
        int[] costs = {65536, 65536, 91750, 91750, 143976, 143976, 143976, 143976};
        // A rim of two pixels that are far away saves asking whether a step leaves the picture.
        int wide = width + 4;
        int[] far = new int[wide * (height + 4)];
        Arrays.fill(far, Integer.MAX_VALUE / 4);
        int[] jumps = new int[steps.length];
        for (int i = 0; i < steps.length; i++) {
            jumps[i] = steps[i][1] * wide + steps[i][0];
        }
        for (int y = 0; y < height; y++) {
            for (int x = 0; x < width; x++) {
                int at = (y + 2) * wide + x + 2;
                int least = canvas[y * width + x] == 0 ? 0 : Integer.MAX_VALUE / 4;
                for (int i = 0; least > 0 && i < jumps.length; i++) {
                    least = Math.min(least, far[at + jumps[i]] + costs[i]);
                }
                far[at] = least;
            }
        }
        float[] result = new float[width * height];
        for (int y = height - 1; y >= 0; y--) {
            for (int x = width - 1; x >= 0; x--) {
                int at = (y + 2) * wide + x + 2;
                int least = far[at];
                for (int i = 0; least > costs[0] && i < jumps.length; i++) {
                    least = Math.min(least, far[at - jumps[i]] + costs[i]);
                }
                far[at] = least;
                result[y * width + x] = least / 65536f;
            }
        }
        return result;
    }

    /** A mask and all that no disc of this radius beside it reaches; by distance, which costs the same at any radius. */
    static Mask closed(Mask mask, double radius) {
        Mask result = new Mask(mask.width, mask.height);
        Box box = mask.bounds(); // nothing is added beyond it
        if (box.isEmpty()) {
            return result;
        }
        int rim = (int) Math.ceil(radius) + 1; // the disc may stand outside of the picture
        int wide = box.width() + 2 * rim;
        int high = box.height() + 2 * rim;
        byte[] canvas = new byte[wide * high];
        Arrays.fill(canvas, (byte) 1);
        for (int y = 0; y < box.height(); y++) {
            for (int x = 0; x < box.width(); x++) {
                if (mask.on[(box.top + y) * mask.width + box.left + x] != 0) {
                    canvas[(y + rim) * wide + x + rim] = 0;
                }
            }
        }
        float[] away = distance(canvas, wide, high);
        for (int i = 0; i < away.length; i++) {
            canvas[i] = (byte) (away[i] <= radius ? 1 : 0);
        }
        float[] depth = distance(canvas, wide, high);
        for (int y = 0; y < box.height(); y++) {
            for (int x = 0; x < box.width(); x++) {
                result.on[(box.top + y) * mask.width + box.left + x] =
                        (byte) (depth[(y + rim) * wide + x + rim] > radius ? 1 : 0);
            }
        }
        return result;
    }

    /** What of a square field hangs together, corners too, with a pixel of it that is also in `begins`. */
    static boolean[] reached(boolean[] field, boolean[] begins, int side) {
        boolean[] result = new boolean[field.length];
        int[] waiting = new int[field.length];
        int count = 0;
        for (int i = 0; i < field.length; i++) {
            if (field[i] && begins[i]) {
                result[i] = true;
                waiting[count++] = i;
            }
        }
        while (count > 0) {
            int at = waiting[--count];
            for (int y = Math.max(at / side - 1, 0); y <= Math.min(at / side + 1, side - 1); y++) {
                for (int x = Math.max(at % side - 1, 0); x <= Math.min(at % side + 1, side - 1); x++) {
                    int next = y * side + x;
                    if (field[next] && !result[next]) {
                        result[next] = true;
                        waiting[count++] = next;
                    }
                }
            }
        }
        return result;
    }

    /** The largest (sign 1) or smallest (-1) value in a square of 2 half + 1 around each pixel (dilate and erode). */
    static float[] extremes(float[] field, int width, int height, int half, int sign) {
        float[] across = new float[field.length];
        float[] result = new float[field.length];
        for (int y = 0; y < height; y++) {
            for (int x = 0; x < width; x++) {
                float value = field[y * width + x];
                for (int i = Math.max(x - half, 0); i <= Math.min(x + half, width - 1); i++) {
                    value = sign * Math.max(sign * value, sign * field[y * width + i]);
                }
                across[y * width + x] = value;
            }
        }
        for (int y = 0; y < height; y++) {
            for (int x = 0; x < width; x++) {
                float value = across[y * width + x];
                for (int i = Math.max(y - half, 0); i <= Math.min(y + half, height - 1); i++) {
                    value = sign * Math.max(sign * value, sign * across[i * width + x]);
                }
                result[y * width + x] = value;
            }
        }
        return result;
    }

    /** Fills everything between the pixels that are on (convexHull and fillConvexPoly). */
    static Mask hull(Mask mask) {
        Box box = mask.bounds();
        Mask filled = new Mask(mask.width, mask.height);
        if (box.isEmpty()) {
            return filled;
        }
        // The hull of each row's first and last pixel: down along the left side, up along the right one (Andrew 1979).
        double[] points = new double[4 * box.height() + 4];
        int count = 0;
        for (int side = 0; side < 2; side++) {
            int first = count;
            for (int i = 0; i < box.height(); i++) {
                int y = side == 0 ? box.top + i : box.bottom - 1 - i;
                int x = side == 0 ? firstOn(mask, y, box.left, 1) : firstOn(mask, y, box.right - 1, -1);
                if (x < 0) {
                    continue;
                }
                while (count >= first + 2 && turnsOut(points, count, x, y)) {
                    count--;
                }
                points[2 * count] = x;
                points[2 * count + 1] = y;
                count++;
            }
        }
        fill(filled.on, mask.width, mask.height, Arrays.copyOf(points, 2 * count), (byte) 1, true);
        return filled;
    }

    private static int firstOn(Mask mask, int y, int from, int step) {
        for (int x = from; x >= 0 && x < mask.width; x += step) {
            if (mask.on[y * mask.width + x] != 0) {
                return x;
            }
        }
        return -1;
    }

    /** Whether the last point lies inside of the line from the one before it to (x, y), or on it. */
    private static boolean turnsOut(double[] points, int count, double x, double y) {
        double ax = points[2 * count - 2] - points[2 * count - 4];
        double ay = points[2 * count - 1] - points[2 * count - 3];
        double bx = x - points[2 * count - 4];
        double by = y - points[2 * count - 3];
        return ax * by - ay * bx >= 0;
    }
}
