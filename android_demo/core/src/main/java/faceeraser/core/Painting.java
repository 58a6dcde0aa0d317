package faceeraser.core;

/** Paints what a plan says on a picture's own grid, whatever its resolution: artifacts/painting.py, which tells why. */
final class Painting {
    /** Pixels along the side of what a planning network sees. */
    static final int SEEN = 128;
    /** Pixels along the side of a plan's shading. */
    static final int SHADED = 64;
    /** Blocks along the side of a crop. */
    static final int BLOCKS = 16;
    /** Windows along the side: one around each corner of the grid of blocks. */
    static final int CORNERS = BLOCKS + 1;
    /** Sources along the side: points half a block apart, the first and last a block from the border. */
    static final int HALVES = 2 * BLOCKS - 3;
    /** Deviations of own skin's detail beyond which nothing is copied. */
    static final double BOUND = 2.5;
    /** A normal variable's standard deviation in mean absolute deviations. */
    static final double DEVIATION = 1.2533;
    /** Of luma: skin that deviates more is creased or stubbled rather than porous, and is copied so much fainter. */
    static final double MOST_DEVIATION = 0.028;
    /** What detail is multiplied by where windows are moved by fractions of pixels, which takes as much of it. */
    static final double SOFTENED = 1.03;
    /** How clean skin is where it is sure: 0 at a weight of 0.4 and below, 1 at 0.65 and above. */
    static final float SLOPE = 4;
    static final float OFFSET = 1.6f;
    /** Of a pixel, below which nothing is painted on it. */
    static final double LEAST_SHARE = 1 / 64.0;
    /** Rec. 601. */
    static final float[] LUMA = {0.299f, 0.587f, 0.114f};
    private static final float CLEAR = 1e-4f; // what a mean is divided by at least

    private final Picture image;
    private final Mask mask;
    private final Picture crop;
    private final Plan plan;
    private final Box box;
    private final Affine local; // from the box's pixels to the crop's
    private final float[] detail;
    private final byte[] hole;

    /**
     * Paints what a plan says into a picture, in place; what is under the mask is not looked at.
     *
     * @param image changed where the mask is, and nowhere else
     * @param mask in the crop's coordinates
     * @param crop what the plan was made of, a square
     * @param map from the picture's pixels to the crop's
     * @param share the share in [0, 1] that what is painted has of the crop's pixels: 1 in the mask, less where it fades out
     *     over what is in front; null: there is nothing
     * @param moving of a video: windows are moved by fractions of pixels, where whole ones would jump
     */
    static void paint(Picture image, Mask mask, Picture crop, Plan plan, Affine map, float[] share, boolean moving) {
        double low = -0.5;
        double high = crop.width - 0.5;
        double[] extent = Box.extent(map.inverse().of(new double[] {low, low, high, low, low, high, high, high}));
        int[] sides = {image.width, image.height, image.width, image.height};
        int[] ends = new int[4];
        for (int i = 0; i < 4; i++) {
            double end = i < 2 ? Math.floor(extent[i]) : Math.ceil(extent[i]) + 1;
            ends[i] = (int) Math.max(0, Math.min(end, sides[i]));
        }
        Box box = new Box(ends[0], ends[1], ends[2], ends[3]);
        if (!box.isEmpty()) {
            new Painting(image, mask, crop, plan, map, box).lay(share, moving);
        }
    }

    private Painting(Picture image, Mask mask, Picture crop, Plan plan, Affine map, Box box) {
        this.image = image;
        this.mask = mask;
        this.crop = crop;
        this.plan = plan;
        this.box = box;
        local = map.after(Affine.shift(box.left, box.top));
        detail = new float[box.width() * box.height()];
        hole = new byte[detail.length];
        look();
    }

    /** A map of the crop on the box's grid, its border repeated. */
    private final class Sampled {
        private final float[] field;
        private final int side;
        private final Affine there;
        private final float[] across = new float[4];
        private final float[] along = new float[4];

        Sampled(float[] field, int side) {
            this.field = field;
            this.side = side;
            double scale = (double) side / crop.width;
            double shift = 0.5 * scale - 0.5;
            there = new Affine(local.xx * scale, local.xy * scale, local.x0 * scale + shift,
                    local.yx * scale, local.yy * scale, local.y0 * scale + shift);
        }

        private int near(int at) {
            return at < 0 ? 0 : at >= side ? side - 1 : at;
        }

        /** Of a map of one channel. */
        float linear(int x, int y) {
            float fromX = there.nearX(x, y);
            float fromY = there.nearY(x, y);
            int left = (int) Math.floor(fromX);
            int top = (int) Math.floor(fromY);
            float right = fromX - left;
            float below = fromY - top;
            int upper = near(top) * side;
            int lower = near(top + 1) * side;
            left = near(left);
            int next = near((int) Math.floor(fromX) + 1);
            return (field[upper + left] * (1 - right) + field[upper + next] * right) * (1 - below)
                    + (field[lower + left] * (1 - right) + field[lower + next] * right) * below;
        }

        /** Of a map of three channels, smoothly. */
        void smooth(int x, int y, float[] colour) {
            float fromX = there.nearX(x, y);
            float fromY = there.nearY(x, y);
            int left = (int) Math.floor(fromX);
            int top = (int) Math.floor(fromY);
            Sampling.weigh(across, fromX - left);
            Sampling.weigh(along, fromY - top);
            colour[0] = colour[1] = colour[2] = 0;
            for (int j = 0; j < 4; j++) {
                for (int i = 0; i < 4; i++) {
                    float weight = along[j] * across[i];
                    int from = 3 * (near(top + j - 1) * side + near(left + i - 1));
                    colour[0] += weight * field[from];
                    colour[1] += weight * field[from + 1];
                    colour[2] += weight * field[from + 2];
                }
            }
        }
    }

    private static float luma(Picture picture, int pixel) {
        byte[] rgb = picture.rgb;
        return ((rgb[3 * pixel] & 0xff) * LUMA[0] + (rgb[3 * pixel + 1] & 0xff) * LUMA[1]
                + (rgb[3 * pixel + 2] & 0xff) * LUMA[2]) / 255;
    }

    /** Which pixels are to be painted; and the bounded detail of skin, fainter where creased, 0 where none may be copied. */
    private void look() {
        float[] on = new float[mask.on.length];
        for (int i = 0; i < on.length; i++) {
            on[i] = mask.on[i] != 0 ? 1 : 0;
        }
        float[] clean = new float[plan.skin.length];
        for (int i = 0; i < clean.length; i++) {
            clean[i] = Math.min(Math.max(SLOPE * plan.skin[i] - OFFSET, 0), 1);
        }
        Sampled holes = new Sampled(on, crop.width);
        Sampled cleans = new Sampled(clean, SEEN);
        Sampled own = new Sampled(ownShading(), SHADED);
        double all = 0;
        double clear = 0;
        for (int y = 0; y < box.height(); y++) {
            for (int x = 0; x < box.width(); x++) {
                int to = y * box.width() + x;
                if (holes.linear(x, y) > 0.5f) {
                    hole[to] = 1;
                    continue;
                }
                float share = cleans.linear(x, y);
                if (share != 0) {
                    float light = luma(image, (box.top + y) * image.width + box.left + x);
                    detail[to] = (light - own.linear(x, y)) * share;
                    all += Math.abs(detail[to]);
                    clear += share;
                }
            }
        }
        double usual = DEVIATION * (all / detail.length) / (clear / detail.length + CLEAR);
        float most = (float) (BOUND * usual);
        float kept = (float) (MOST_DEVIATION / Math.max(usual, MOST_DEVIATION));
        for (int i = 0; i < detail.length; i++) {
            detail[i] = Math.min(Math.max(detail[i], -most), most) * kept;
        }
    }

    /** Luma of skin without its detail: means of what is skin. */
    private float[] ownShading() {
        Grid visible = new Grid(crop.width, crop.height, 1);
        for (int i = 0; i < mask.on.length; i++) {
            visible.values[i] = mask.on[i] == 0 ? luma(crop, i) : 0;
        }
        float[] value = Sampling.shrink(visible, SEEN, SEEN).values;
        for (int i = 0; i < value.length; i++) {
            value[i] *= plan.skin[i];
        }
        value = Sampling.shrink(new Grid(SEEN, SEEN, 1, value), SHADED, SHADED).values;
        float[] weight = Sampling.shrink(new Grid(SEEN, SEEN, 1, plan.skin), SHADED, SHADED).values;
        for (int k = 0; k < 2; k++) {
            value = means(value, SHADED);
            weight = means(weight, SHADED);
        }
        for (int i = 0; i < value.length; i++) {
            value[i] /= weight[i] + CLEAR;
        }
        return value;
    }

    /** Means of 3 x 3 of side x side numbers, the border mirrored at its pixels. */
    static float[] means(float[] field, int side) {
        float[] result = new float[field.length];
        for (int y = 0; y < side; y++) {
            for (int x = 0; x < side; x++) {
                float sum = 0;
                for (int j = -1; j <= 1; j++) {
                    for (int i = -1; i <= 1; i++) {
                        sum += field[Sampling.mirrored(y + j, side) * side + Sampling.mirrored(x + i, side)];
                    }
                }
                result[y * side + x] = sum / 9;
            }
        }
        return result;
    }

    /** How far each window is moved, in pixels of the box: x and y in turn. */
    private double[] shifts() {
        Affine back = local.inverse();
        double block = (double) crop.width / BLOCKS;
        double[] shifts = new double[2 * plan.sources.length];
        for (int k = 0; k < plan.sources.length; k++) {
            int source = (int) plan.sources[k];
            double x = (source % HALVES + 2) * (block / 2) - k % CORNERS * block;
            double y = (source / HALVES + 2) * (block / 2) - k / CORNERS * block;
            shifts[2 * k] = x * back.xx + y * back.xy;
            shifts[2 * k + 1] = x * back.yx + y * back.yy;
        }
        return shifts;
    }

    /** What windows make of the detail. */
    private final class Texture {
        private final int[] whole; // how far x and y of each window are moved, in whole pixels,
        private final float[] weights; // and what the pixels around count, four in a row and four rows; null: one alone

        Texture(boolean moving) {
            double[] shifts = shifts();
            whole = new int[shifts.length];
            weights = moving ? new float[4 * shifts.length] : null;
            float[] four = new float[4];
            for (int k = 0; k < shifts.length; k++) {
                whole[k] = (int) (moving ? Math.floor(shifts[k]) : Math.rint(shifts[k]));
                if (moving) {
                    Sampling.weigh(four, (float) (shifts[k] - whole[k]));
                    for (int i = 0; i < 4; i++) {
                        weights[4 * k + i] = four[i] * (k % 2 == 0 ? (float) SOFTENED : 1);
                    }
                }
            }
        }

        /** What is copied to a pixel: it lies in four windows, one around each corner of its block. */
        float at(int x, int y) {
            double block = (double) crop.width / BLOCKS;
            float u = (float) ((local.xx * x + local.xy * y + local.x0 + 0.5) / block);
            float v = (float) ((local.yx * x + local.yy * y + local.y0 + 0.5) / block);
            int left = (int) Math.max(0, Math.min(Math.floor(u), BLOCKS - 1));
            int top = (int) Math.max(0, Math.min(Math.floor(v), BLOCKS - 1));
            double across = Math.pow(Math.cos((u - left) * (Math.PI / 2)), 2);
            double along = Math.pow(Math.cos((v - top) * (Math.PI / 2)), 2);
            double laid = 0;
            double squares = 0;
            for (int corner = 0; corner < 4; corner++) {
                int down = corner >> 1;
                int right = corner & 1;
                int window = (top + down) * CORNERS + left + right;
                int fromX = x + whole[2 * window];
                int fromY = y + whole[2 * window + 1];
                if (fromX >= 0 && fromY >= 0 && fromX < box.width() && fromY < box.height()) {
                    double weight = (right != 0 ? 1 - across : across) * (down != 0 ? 1 - along : along);
                    laid += weight * moved(fromX, fromY, window);
                    squares += weight * weight;
                }
            }
            return (float) (laid / Math.sqrt(Math.max(squares, 1e-3)));
        }

        /** The detail at a pixel that a window is moved to. */
        private float moved(int x, int y, int window) {
            if (weights == null) {
                return detail[y * box.width() + x];
            }
            float sum = 0;
            for (int j = 0; j < 4; j++) {
                int line = Math.max(0, Math.min(y + j - 1, box.height() - 1)) * box.width();
                float row = 0;
                for (int i = 0; i < 4; i++) {
                    row += weights[8 * window + i] * detail[line + Math.max(0, Math.min(x + i - 1, box.width() - 1))];
                }
                sum += weights[8 * window + 4 + j] * row;
            }
            return sum;
        }
    }

    /** What share the painted has of each pixel of the box, 0 where nothing is painted. */
    private float[] shares(float[] share) {
        float[] shares = new float[hole.length];
        float[] edge = new float[share == null ? 0 : share.length];
        boolean fades = false;
        for (int i = 0; i < edge.length; i++) {
            edge[i] = share[i] > 0 && share[i] < 1 ? 1 : 0;
            fades |= edge[i] > 0;
        }
        Sampled edges = new Sampled(edge, crop.width);
        Sampled all = new Sampled(share, crop.width);
        for (int i = 0; i < hole.length; i++) {
            int x = i % box.width();
            int y = i / box.width();
            if (hole[i] != 0) {
                shares[i] = 1;
            } else if (fades && edges.linear(x, y) > 0) {
                float there = all.linear(x, y);
                shares[i] = there > LEAST_SHARE ? there : 0;
            }
        }
        return shares;
    }

    /** Lays shading and copied detail where they have a share. */
    private void lay(float[] share, boolean moving) {
        float[] shares = shares(share);
        Texture texture = new Texture(moving);
        Sampled shading = new Sampled(plan.shading, SHADED);
        boolean grey = isGrey();
        float[] colour = new float[3];
        for (int y = 0; y < box.height(); y++) {
            for (int x = 0; x < box.width(); x++) {
                float part = shares[y * box.width() + x];
                if (part == 0) {
                    continue;
                }
                float copied = texture.at(x, y);
                shading.smooth(x, y, colour);
                if (grey) {
                    colour[0] = colour[1] = colour[2] = colour[0] * LUMA[0] + colour[1] * LUMA[1] + colour[2] * LUMA[2];
                }
                int to = 3 * ((box.top + y) * image.width + box.left + x);
                for (int c = 0; c < 3; c++) {
                    float painted = 255 * Math.min(Math.max(colour[c] + copied, 0), 1);
                    image.rgb[to + c] = Picture.level(painted * part + (image.rgb[to + c] & 0xff) * (1 - part));
                }
            }
        }
    }

    /** Whether the crop has no colour at all: a network has a tint for every skin. */
    private boolean isGrey() {
        for (int i = 0; i < crop.rgb.length; i += 3) {
            if (crop.rgb[i] != crop.rgb[i + 1] || crop.rgb[i] != crop.rgb[i + 2]) {
                return false;
            }
        }
        return true;
    }

    /** How much of the windows of some sources is skin, in [0, 1], on average. */
    static double skinOf(float[] skin, float[] sources) {
        int block = SEEN / BLOCKS;
        double sum = 0;
        for (float source : sources) {
            int left = ((int) source % HALVES + 2) * (block / 2) - block;
            int top = ((int) source / HALVES + 2) * (block / 2) - block;
            for (int y = top; y < top + 2 * block; y++) {
                for (int x = left; x < left + 2 * block; x++) {
                    sum += skin[y * SEEN + x];
                }
            }
        }
        return sum / (4.0 * block * block * sources.length);
    }
}
