package faceeraser.core;

/** What a network that plans says of a crop; `painting.py` tells what is made of it. All are kept, not copied. */
final class Plan {
    /** How surely each visible pixel is bare skin, in [0, 1]: SEEN x SEEN, row by row. */
    final float[] skin;
    /** The colours of the empty face, in [0, 1]: SHADED x SHADED pixels of three. */
    final float[] shading;
    /** For each window of the grid the source that is copied there, a whole number. */
    final float[] sources;

    Plan(float[] skin, float[] shading, float[] sources) {
        this.skin = skin;
        this.shading = shading;
        this.sources = sources;
    }
}
