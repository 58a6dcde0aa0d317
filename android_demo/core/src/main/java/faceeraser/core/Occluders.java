package faceeraser.core;

import java.io.IOException;

/**
 * What hangs in front of a face, hair, hands, things, is taken out of its mask, whose edge is soft, as
 * faceeraser/face/occluders.py does it.
 */
public final class Occluders {
    /** Edge in pixels of what the network sees and says. */
    static final int SIDE = 128;
    /** From what on something is in front, and so surely that nothing is painted over it. */
    static final double IN_FRONT = 0.5;
    static final double WHOLLY = 0.9;
    /** Of the crop's side, over which paint fades out beside the mask. */
    static final double FADES = 3 / 256.0;

    private final Model model;

    /** @param model takes a picture of SIDE x SIDE in [0, 1], and gives SIDE x SIDE numbers */
    public Occluders(Model model) {
        this.model = model;
    }

    /** A mask, and the share in [0, 1] of each pixel that what is painted has: 1 in the mask, less where it fades out. */
    static final class Trimmed {
        final Mask mask;
        final float[] share;

        Trimmed(Mask mask, float[] share) {
            this.mask = mask;
            this.share = share;
        }
    }

    /** The mask of a crop without what is in front of it. */
    Trimmed trimmed(Mask mask, Picture crop) throws IOException {
        Picture small = crop.width == SIDE ? crop : Sampling.shrink(crop, SIDE, SIDE);
        float[] pixels = new float[small.rgb.length];
        for (int i = 0; i < pixels.length; i++) {
            pixels[i] = (small.rgb[i] & 0xff) / 255f;
        }
        return trimmed(mask, (float[]) model.run(pixels)[0]);
    }

    /** @param front how surely each of SIDE x SIDE pixels is in front of the face */
    static Trimmed trimmed(Mask mask, float[] front) {
        float[] there = new Grid(SIDE, SIDE, 1, reachingIn(front, mask)).enlarged(mask.width, mask.height).values;
        Mask bare = new Mask(mask.width, mask.height);
        byte[] open = new byte[there.length];
        boolean any = false;
        for (int i = 0; i < there.length; i++) {
            bare.on[i] = (byte) (mask.on[i] != 0 && there[i] <= IN_FRONT ? 1 : 0);
            open[i] = (byte) (1 - bare.on[i]);
            any |= bare.on[i] != 0;
        }
        float[] share = new float[there.length];
        if (!any) {
            return new Trimmed(bare, share);
        }
        float[] away = Shapes.distance(open, mask.width, mask.height);
        for (int i = 0; i < there.length; i++) {
            if (bare.on[i] != 0) {
                share[i] = 1;
            } else if (mask.on[i] != 0) {
                share[i] = (float) Math.min(Math.max((WHOLLY - there[i]) / (WHOLLY - IN_FRONT), 0), 1);
            } else {
                share[i] = (float) (Math.max(1 - away[i] / (FADES * mask.width), 0) * Math.max(1 - there[i] / IN_FRONT, 0));
            }
        }
        return new Trimmed(bare, share);
    }

    /** What is in front, without what lies wholly inside the mask: a highlight, a nostril or a mark is no occluder. */
    private static float[] reachingIn(float[] front, Mask mask) {
        Grid whole = new Grid(mask.width, mask.height, 1);
        for (int i = 0; i < mask.on.length; i++) {
            whole.values[i] = mask.on[i] != 0 ? 1 : 0;
        }
        float[] covered = Sampling.shrink(whole, SIDE, SIDE).values;
        boolean[] sure = new boolean[front.length];
        boolean[] outside = new boolean[front.length];
        for (int i = 0; i < front.length; i++) {
            sure[i] = front[i] > IN_FRONT;
            outside[i] = covered[i] < 0.5f;
        }
        boolean[] reached = Shapes.reached(sure, outside, SIDE);
        float[] kept = front.clone();
        for (int i = 0; i < kept.length; i++) {
            if (sure[i] && !reached[i]) {
                kept[i] = 0;
            }
        }
        return kept;
    }
}
