package faceeraser.core;

/** Pictures at other sizes and in other places, without aliasing; as faces.cut does it with OpenCV. */
public final class Sampling {
    /** Below this scale areas are averaged first: sampling alone skips pixels, and the mesh then jitters. */
    static final double SHRINKS = 0.75;

    private Sampling() {
    }

    /**
     * Cuts an affine patch out of a picture.
     *
     * @param map from the picture's to the patch's pixels
     * @param sharp enlarge by cubic instead of linear sampling
     * @return the patch; beyond the picture its border pixels are repeated
     */
    public static Picture cut(Picture image, Affine map, int width, int height, boolean sharp) {
        double[] corners = map.inverse().of(new double[] {-1, -1, width, -1, -1, height, width, height});
        double[] extent = Box.extent(corners);
        int left = clamp((int) Math.floor(extent[0]) - 2, 0, image.width - 1);
        int top = clamp((int) Math.floor(extent[1]) - 2, 0, image.height - 1);
        int right = clamp((int) Math.ceil(extent[2]) + 3, left + 1, image.width);
        int bottom = clamp((int) Math.ceil(extent[3]) + 3, top + 1, image.height);
        double scale = map.scale();
        if (scale >= SHRINKS) {
            return warp(image, map, new Box(0, 0, width, height), sharp && scale > 1);
        }
        Picture piece = image.part(new Box(left, top, right, bottom));
        Picture small = shrink(piece, Math.max(1, (int) Math.rint(piece.width * scale)),
                Math.max(1, (int) Math.rint(piece.height * scale)));
        // From the small piece's pixels to the picture's: p = (q + 0.5) / factor - 0.5 + corner.
        double factorX = (double) small.width / piece.width;
        double factorY = (double) small.height / piece.height;
        Affine toPicture = new Affine(1 / factorX, 0, 0.5 / factorX - 0.5 + left, 0, 1 / factorY, 0.5 / factorY - 0.5 + top);
        return warp(small, map.after(toPicture), new Box(0, 0, width, height), false);
    }

    /**
     * Moves a picture by a map and makes a box of the result; beyond the picture its border pixels are repeated.
     *
     * @param smooth cubic instead of linear sampling, for enlarging
     */
    static Picture warp(Picture image, Affine map, Box box, boolean smooth) {
        Affine back = map.inverse();
        Picture result = new Picture(box.width(), box.height());
        int taps = smooth ? 4 : 2;
        float[] weightsX = new float[taps];
        float[] weightsY = new float[taps];
        int[] columns = new int[taps];
        for (int y = 0; y < result.height; y++) {
            for (int x = 0; x < result.width; x++) {
                float fromX = back.nearX(x + box.left, y + box.top);
                float fromY = back.nearY(x + box.left, y + box.top);
                int left = (int) Math.floor(fromX);
                int top = (int) Math.floor(fromY);
                weigh(weightsX, fromX - left);
                weigh(weightsY, fromY - top);
                for (int i = 0; i < taps; i++) {
                    columns[i] = 3 * clamp(left + i - taps / 2 + 1, 0, image.width - 1);
                }
                float red = 0;
                float green = 0;
                float blue = 0;
                for (int j = 0; j < taps; j++) {
                    int row = 3 * image.width * clamp(top + j - taps / 2 + 1, 0, image.height - 1);
                    for (int i = 0; i < taps; i++) {
                        float weight = weightsX[i] * weightsY[j];
                        int at = row + columns[i];
                        red += weight * (image.rgb[at] & 0xff);
                        green += weight * (image.rgb[at + 1] & 0xff);
                        blue += weight * (image.rgb[at + 2] & 0xff);
                    }
                }
                int to = 3 * (y * result.width + x);
                result.rgb[to] = Picture.level(red);
                result.rgb[to + 1] = Picture.level(green);
                result.rgb[to + 2] = Picture.level(blue);
            }
        }
        return result;
    }

    /** What each of two or four pixels in a row gives to a point `t` beyond the left middle one (cubic: Keys, a = -0.75). */
    static void weigh(float[] weights, float t) {
        if (weights.length == 2) {
            weights[0] = 1 - t;
            weights[1] = t;
            return;
        }
        float a = -0.75f;
        weights[0] = ((a * (t + 1) - 5 * a) * (t + 1) + 8 * a) * (t + 1) - 4 * a;
        weights[1] = ((a + 2) * t - (a + 3)) * t * t + 1;
        weights[2] = ((a + 2) * (1 - t) - (a + 3)) * (1 - t) * (1 - t) + 1;
        weights[3] = 1 - weights[0] - weights[1] - weights[2];
    }

    /** A weight for each pixel through a map, linearly; a box of the result. Beyond the map's source the weight is 0. */
    static float[] warp(float[] weights, int width, int height, Affine map, Box box) {
        Affine back = map.inverse();
        float[] result = new float[box.width() * box.height()];
        for (int y = 0; y < box.height(); y++) {
            for (int x = 0; x < box.width(); x++) {
                float fromX = back.nearX(x + box.left, y + box.top);
                float fromY = back.nearY(x + box.left, y + box.top);
                int left = (int) Math.floor(fromX);
                int top = (int) Math.floor(fromY);
                float right = fromX - left;
                float below = fromY - top;
                float upper = (1 - right) * at(weights, width, height, left, top)
                        + right * at(weights, width, height, left + 1, top);
                float lower = (1 - right) * at(weights, width, height, left, top + 1)
                        + right * at(weights, width, height, left + 1, top + 1);
                result[y * box.width() + x] = (1 - below) * upper + below * lower;
            }
        }
        return result;
    }

    private static float at(float[] weights, int width, int height, int x, int y) {
        return x < 0 || y < 0 || x >= width || y >= height ? 0 : weights[y * width + x];
    }

    /** A picture at a size no larger than its own, each pixel the average of the area it covers (INTER_AREA). */
    public static Picture shrink(Picture image, int width, int height) {
        float[] sums = averages((y, row) -> {
            int from = 3 * y * image.width;
            for (int i = 0; i < row.length; i++) {
                row[i] = image.rgb[from + i] & 0xff;
            }
        }, image.width, image.height, 3, width, height);
        // The mean of 2 x 2 pixels often ends in a half, and in that one case OpenCV rounds halves up.
        float half = image.width == 2 * width && image.height == 2 * height ? 1e-4f : 0;
        Picture small = new Picture(width, height);
        for (int i = 0; i < sums.length; i++) {
            small.rgb[i] = Picture.level(sums[i] + half);
        }
        return small;
    }

    /** The same of a grid. */
    static Grid shrink(Grid grid, int width, int height) {
        int length = grid.width * grid.channels;
        float[] sums = averages((y, row) -> System.arraycopy(grid.values, y * length, row, 0, length),
                grid.width, grid.height, grid.channels, width, height);
        return new Grid(width, height, grid.channels, sums);
    }

    /** Fills a row of numbers with those of row y. */
    private interface Rows {
        void read(int y, float[] row);
    }

    /** Averages over areas, a row at a time, so that a photograph need not be kept as floats. */
    private static float[] averages(Rows rows, int fromWidth, int fromHeight, int channels, int width, int height) {
        if (width > fromWidth || height > fromHeight) {
            throw new IllegalArgumentException("found a picture of " + fromWidth + " x " + fromHeight
                    + " pixels; expected at least " + width + " x " + height);
        }
        double stepX = (double) fromWidth / width;
        double stepY = (double) fromHeight / height;
        float[] row = new float[fromWidth * channels];
        float[] narrow = new float[width * channels];
        float[] result = new float[width * height * channels];
        for (int fromY = 0; fromY < fromHeight; fromY++) {
            rows.read(fromY, row);
            for (int x = 0; x < width; x++) {
                double low = x * stepX;
                double high = Math.min(low + stepX, fromWidth);
                for (int c = 0; c < channels; c++) {
                    double sum = 0;
                    for (int i = (int) low; i < high; i++) {
                        sum += covered(i, low, high) * row[i * channels + c];
                    }
                    narrow[x * channels + c] = (float) (sum / stepX);
                }
            }
            // A row lies in one row of the result, or across the border of two.
            for (int y = (int) (fromY / stepY); y < height && y * stepY < fromY + 1; y++) {
                float share = (float) (covered(fromY, y * stepY, (y + 1) * stepY) / stepY);
                for (int i = 0; i < narrow.length; i++) {
                    result[y * narrow.length + i] += share * narrow[i];
                }
            }
        }
        return result;
    }

    /** How much of pixel i lies between two borders. A thousandth is none, or what rounding leaves would pass for light. */
    private static double covered(int i, double low, double high) {
        double part = Math.min(i + 1, high) - Math.max(i, low);
        return part > 1e-3 ? part : 0;
    }

    /** A picture blurred by a Gaussian as wide as OpenCV makes it for this sigma; the border is mirrored. */
    static Picture blur(Picture image, double sigma) {
        int radius = ((int) Math.rint(sigma * 6 + 1) | 1) / 2;
        float[] kernel = new float[2 * radius + 1];
        float sum = 0;
        for (int i = 0; i < kernel.length; i++) {
            kernel[i] = (float) Math.exp(-(i - radius) * (i - radius) / (2 * sigma * sigma));
            sum += kernel[i];
        }
        for (int i = 0; i < kernel.length; i++) {
            kernel[i] /= sum;
        }
        float[] across = new float[image.rgb.length];
        for (int y = 0; y < image.height; y++) {
            for (int x = 0; x < image.width; x++) {
                for (int i = 0; i < kernel.length; i++) {
                    int from = mirrored(x + i - radius, image.width);
                    for (int c = 0; c < 3; c++) {
                        across[3 * (y * image.width + x) + c] += kernel[i] * image.at(from, y, c);
                    }
                }
            }
        }
        Picture result = new Picture(image.width, image.height);
        for (int y = 0; y < image.height; y++) {
            for (int x = 0; x < 3 * image.width; x++) {
                float value = 0;
                for (int i = 0; i < kernel.length; i++) {
                    value += kernel[i] * across[3 * image.width * mirrored(y + i - radius, image.height) + x];
                }
                result.rgb[3 * image.width * y + x] = Picture.level(value);
            }
        }
        return result;
    }

    /** An index beyond 0 .. length - 1, mirrored at the first or the last one. */
    static int mirrored(int index, int length) {
        int at = Math.abs(index);
        return Math.max(at < length ? at : 2 * length - 2 - at, 0);
    }

    private static int clamp(int value, int least, int most) {
        return Math.max(least, Math.min(value, most));
    }
}
