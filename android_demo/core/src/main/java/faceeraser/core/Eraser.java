package faceeraser.core;

import java.io.IOException;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;

/**
 * Erases parts of a face: level it into a crop, and let the network plan what is painted in the picture, on its own grid. A
 * file that paints the crop itself is taken as well; that is then put back softly.
 */
public final class Eraser {
    /** Of {@link #erase}: a photograph, not one of a video's frames. */
    public static final int ALONE = -1;
    private static final List<String> PLAN = Arrays.asList("skin", "shading", "sources");

    private static final double ALIKE = 40; // dB, inside the mask: what two runtimes may differ by
    private static final double FEATHER = 3; // how wide the blend into the photograph is, in pixels of the crop

    private final Card card;
    private final Model model;
    private final Occluders occluders;
    private final boolean plans;
    private final Said said = new Said();

    /**
     * @param card says what the model takes
     * @param model takes one array for each input of the card, in its order
     * @param occluders takes what hangs in front of a face out of its mask
     */
    public Eraser(Card card, Model model, Occluders occluders) {
        Map<String, Integer> given = new HashMap<>();
        for (Card.Port port : card.outputs) {
            given.put(port.name, given.size());
        }
        plans = given.keySet().containsAll(PLAN);
        if (!plans && card.outputs.size() != 1) {
            throw new IllegalArgumentException("found " + card.outputs.size()
                    + " outputs on the card; expected one picture, or " + PLAN);
        }
        for (Card.Port port : card.inputs) {
            if (!port.name.equals("image") && !port.name.equals("mask")) {
                throw new IllegalArgumentException("found an input " + port.name + " on the card; expected image and mask");
            }
        }
        this.card = card;
        this.model = model;
        this.occluders = occluders;
    }

    /**
     * A picture with parts of one face erased; outside of the mask it is the picture bit for bit.
     *
     * @param image the picture, left as it is
     * @param face in its coordinates
     * @param bits which {@link Parts}
     * @param number of the face in a video, of which what holds is kept from frame to frame; ALONE for a photograph
     */
    public Picture erase(Picture image, Face face, int bits, int number) throws IOException {
        Affine map = face.aligned(card.resolution);
        // Of what is only planned on nothing is shown, and a plan sees half of its pixels.
        Picture crop = Sampling.cut(image, map, card.resolution, card.resolution, !plans);
        Face level = face.moved(map);
        boolean moving = number != ALONE;
        if (!plans) {
            Mask mask = maskOf(level, crop, bits, moving).mask;
            return pasteBack(image, paint(crop, mask), map, mask);
        }
        double[] points = level.points(Said.POINTS);
        Said.Answer answer = moving ? said.of(number, crop, bits, points) : null;
        Occluders.Trimmed trimmed = answer != null && said.covers() ? answer.trimmed
                : maskOf(level, crop, bits, moving);
        if (answer == null) {
            answer = new Said.Answer(bits, points, trimmed, plan(crop, trimmed.mask));
            answer = moving ? said.take(number, crop, answer) : answer;
        }
        Picture result = image.copy();
        Painting.paint(result, trimmed.mask, crop, answer.plan, map, trimmed.share, moving);
        return result;
    }

    /** Forgets the faces of a video: what comes next is another. */
    public void forget() {
        said.forget();
    }

    /**
     * What is erased of a face at last: nothing changes the mask after this.
     *
     * @param level the face in the coordinates of its crop
     */
    private Occluders.Trimmed maskOf(Face level, Picture crop, int bits, boolean moving) throws IOException {
        Mask mask = Parts.erased(level, crop.width, bits);
        boolean whole = (bits & Parts.FEATURES) == Parts.FEATURES;
        return occluders.trimmed(whole && !moving ? Parts.withCreases(mask, crop, level) : mask, crop);
    }

    /**
     * Whether two models that should be the same paint the same. A GPU that counts in half precision chooses other sources,
     * or none that are any; better a slow picture than a wrong one.
     */
    public static boolean agree(Card card, Model one, Model other) throws IOException {
        // Something to copy everywhere, at no regular distance, and a hole in the middle of it.
        int size = card.resolution;
        Picture texture = new Picture(size, size);
        Mask hole = new Mask(size, size);
        Random random = new Random(1);
        for (int i = 0; i < texture.rgb.length; i++) {
            int x = i / 3 % size;
            int y = i / 3 / size;
            double wave = Math.sin(0.13 * x + 0.05 * y) + Math.sin(0.07 * x - 0.11 * y);
            texture.rgb[i] = Picture.level(150 + 20 * wave + 12 * random.nextGaussian());
            hole.on[i / 3] = (byte) (Math.abs(2 * x - size) < size / 2 && Math.abs(2 * y - size) < size / 2 ? 1 : 0);
        }
        Picture first = new Eraser(card, one, null).paint(texture, hole);
        Picture second = new Eraser(card, other, null).paint(texture, hole);
        double squares = 0;
        int count = 0;
        for (int i = 0; i < first.rgb.length; i++) {
            if (hole.on[i / 3] != 0) {
                double apart = (first.rgb[i] & 0xff) - (second.rgb[i] & 0xff);
                squares += apart * apart;
                count++;
            }
        }
        return 255.0 * 255 * count >= squares * Math.pow(10, ALIKE / 10);
    }

    /** A crop erased in its own grid; outside of the mask it is the crop bit for bit. */
    Picture paint(Picture crop, Mask mask) throws IOException {
        Picture result = crop.copy();
        if (plans) {
            Painting.paint(result, mask, crop, plan(crop, mask), Affine.shift(0, 0), null, false);
            return result;
        }
        float[] painted = card.outputs.get(0).unpack(asked(crop, mask)[0]);
        for (int i = 0; i < painted.length; i++) {
            if (mask.on[i / 3] != 0) {
                result.rgb[i] = Picture.level(255 * painted[i]);
            }
        }
        return result;
    }

    private Plan plan(Picture crop, Mask mask) throws IOException {
        Object[] given = asked(crop, mask);
        float[][] said = new float[PLAN.size()][];
        for (int i = 0; i < given.length; i++) {
            int at = PLAN.indexOf(card.outputs.get(i).name);
            if (at >= 0) {
                said[at] = card.outputs.get(i).unpack(given[i]);
            }
        }
        return new Plan(said[0], said[1], said[2]);
    }

    /** What the model gives for a crop and its mask. */
    private Object[] asked(Picture crop, Mask mask) throws IOException {
        float[] image = new float[crop.rgb.length];
        for (int i = 0; i < image.length; i++) {
            image[i] = (crop.rgb[i] & 0xff) / 255f;
        }
        float[] hole = new float[mask.on.length];
        for (int i = 0; i < hole.length; i++) {
            hole[i] = mask.on[i];
        }
        Object[] inputs = new Object[card.inputs.size()];
        for (int i = 0; i < inputs.length; i++) {
            Card.Port port = card.inputs.get(i);
            inputs[i] = port.pack(port.name.equals("image") ? image : hole);
        }
        return model.run(inputs);
    }

    /**
     * Puts a crop's masked pixels back where `map` took them from. The blend runs from the mask's rim inwards, so nothing
     * outside of the mask changes; it starts and ends level (a smoothstep), so that neither end shows as a line.
     */
    static Picture pasteBack(Picture image, Picture crop, Affine map, Mask mask) {
        Picture result = image.copy();
        Box on = mask.bounds();
        if (on.isEmpty()) {
            return result;
        }
        Affine back = map.inverse();
        // Only where the mask is: two pixels more, for what interpolation reaches.
        double[] corners = back.of(new double[] {on.left - 2, on.top - 2, on.right + 1, on.top - 2, on.left - 2,
            on.bottom + 1, on.right + 1, on.bottom + 1});
        Box box = Box.around(corners, 1, image.width, image.height);
        if (box.isEmpty()) {
            return result;
        }
        float[] weight = mask.depth();
        for (int i = 0; i < weight.length; i++) {
            float share = (float) Math.min(weight[i] / (FEATHER + 1), 1);
            weight[i] = share * share * (3 - 2 * share);
        }
        double scale = back.scale();
        // The crop is larger than the face was: average before sampling.
        Picture source = scale < Sampling.SHRINKS ? Sampling.blur(crop, 0.4 / scale) : crop;
        Picture pasted = Sampling.warp(source, back, box, scale > 1);
        float[] alpha = Sampling.warp(weight, mask.width, mask.height, back, box);
        // Linear sampling spreads the weight up to a pixel beyond the rim; the mask itself says where that must not show.
        Mask inside = mask.warped(back, box);
        for (int y = 0; y < box.height(); y++) {
            for (int x = 0; x < box.width(); x++) {
                int from = y * box.width() + x;
                if (inside.on[from] == 0) {
                    continue;
                }
                for (int c = 0; c < 3; c++) {
                    int to = 3 * ((box.top + y) * image.width + box.left + x) + c;
                    int under = image.rgb[to] & 0xff;
                    result.rgb[to] = Picture.level(under + ((pasted.rgb[3 * from + c] & 0xff) - under) * alpha[from]);
                }
            }
        }
        return result;
    }
}
