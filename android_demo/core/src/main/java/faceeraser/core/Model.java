package faceeraser.core;

import java.io.IOException;

/** A network that is loaded: LiteRT's on a phone, a recording in the tests. Not for several threads at once. */
public interface Model {
    /**
     * Runs it once.
     *
     * @param inputs one array for each input, float[] or byte[], in the order that was agreed on when it was loaded
     * @return one array for each output, in that order
     * @throws IOException the runtime failed; says how
     */
    Object[] run(Object... inputs) throws IOException;
}
