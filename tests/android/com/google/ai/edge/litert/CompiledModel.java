package com.google.ai.edge.litert;

import android.content.res.AssetManager;
import java.util.List;
import java.util.Map;

/**
 * What the demo uses of LiteRT's Kotlin classes, as Java sees them, for the type check alone: written down from the sources of
 * LiteRT (litert/kotlin/src/main/kotlin/com/google/ai/edge/litert), since the AAR cannot be had where the tests run.
 */
public final class CompiledModel extends JniHandle {
    public static final class Options {
        public Options(Accelerator... accelerators) {
        }
    }

    public static CompiledModel create(AssetManager assets, String name, Options options, Environment environment)
            throws LiteRtException {
        return null;
    }

    public TensorBuffer createInputBuffer(String name, String signature) throws LiteRtException {
        return null;
    }

    public TensorBuffer createOutputBuffer(String name, String signature) throws LiteRtException {
        return null;
    }

    public List<TensorBuffer> createInputBuffers() throws LiteRtException {
        return null;
    }

    public List<TensorBuffer> createOutputBuffers() throws LiteRtException {
        return null;
    }

    public void run(List<TensorBuffer> inputs, List<TensorBuffer> outputs) throws LiteRtException {
    }

    public void run(Map<String, TensorBuffer> inputs, Map<String, TensorBuffer> outputs, String signature)
            throws LiteRtException {
    }
}
