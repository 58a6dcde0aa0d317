package faceeraser.core;

/** Numbers at every pixel, one or more channels, row by row: what pictures become while light is worked out. */
final class Grid {
    final int width;
    final int height;
    final int channels;
    final float[] values;

    Grid(int width, int height, int channels) {
        this(width, height, channels, new float[width * height * channels]);
    }

    Grid(int width, int height, int channels, float[] values) {
        this.width = width;
        this.height = height;
        this.channels = channels;
        this.values = values;
    }

    /** The same at a larger size, each pixel mixed from its four nearest (resize with INTER_LINEAR). */
    Grid enlarged(int toWidth, int toHeight) {
        Grid result = new Grid(toWidth, toHeight, channels);
        for (int y = 0; y < toHeight; y++) {
            float fromY = clamp((y + 0.5f) * height / toHeight - 0.5f, height - 1);
            int top = (int) fromY;
            int below = Math.min(top + 1, height - 1);
            for (int x = 0; x < toWidth; x++) {
                float fromX = clamp((x + 0.5f) * width / toWidth - 0.5f, width - 1);
                int left = (int) fromX;
                int right = Math.min(left + 1, width - 1);
                for (int c = 0; c < channels; c++) {
                    float upper = mixed(at(left, top, c), at(right, top, c), fromX - left);
                    float lower = mixed(at(left, below, c), at(right, below, c), fromX - left);
                    result.values[(y * toWidth + x) * channels + c] = mixed(upper, lower, fromY - top);
                }
            }
        }
        return result;
    }

    /** Averages over 3 x 3 pixels; beyond the border its pixels are repeated. */
    Grid blurred() {
        Grid result = new Grid(width, height, channels);
        for (int y = 0; y < height; y++) {
            int above = Math.max(y - 1, 0);
            int below = Math.min(y + 1, height - 1);
            for (int x = 0; x < width; x++) {
                int left = Math.max(x - 1, 0);
                int right = Math.min(x + 1, width - 1);
                for (int c = 0; c < channels; c++) {
                    result.values[(y * width + x) * channels + c] = (at(left, above, c) + at(x, above, c)
                            + at(right, above, c) + at(left, y, c) + at(x, y, c) + at(right, y, c)
                            + at(left, below, c) + at(x, below, c) + at(right, below, c)) / 9;
                }
            }
        }
        return result;
    }

    private float at(int x, int y, int channel) {
        return values[(y * width + x) * channels + channel];
    }

    private static float clamp(float value, int most) {
        return value < 0 ? 0 : value > most ? most : value;
    }

    private static float mixed(float a, float b, float share) {
        return a + (b - a) * share;
    }
}
