package faceeraser.demo;

import android.content.res.AssetManager;
import com.google.ai.edge.litert.Accelerator;
import com.google.ai.edge.litert.CompiledModel;
import com.google.ai.edge.litert.Environment;
import com.google.ai.edge.litert.TensorBuffer;
import faceeraser.core.Card;
import faceeraser.core.Model;
import java.io.IOException;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/** A .tflite file of the app's assets, compiled by LiteRT for the processor or for the GPU. Belongs to one thread. */
final class LiteRtModel implements Model, AutoCloseable {
    /** What the exporters call the one thing a file does. Newer versions of LiteRT end the process where it is null. */
    private static final String SIGNATURE = "serving_default";

    private final CompiledModel compiled;
    private final Map<String, TensorBuffer> inputs = new LinkedHashMap<>();
    private final Map<String, TensorBuffer> outputs = new LinkedHashMap<>();
    private final boolean named;

    /**
     * @param card names inputs and outputs, whose order is then the card's; null where a file has no names
     * @throws IOException LiteRT cannot load it, or not for this accelerator
     */
    LiteRtModel(AssetManager assets, String file, Card card, Accelerator accelerator, Environment environment)
            throws IOException {
        named = card != null;
        try {
            compiled = CompiledModel.create(assets, file, new CompiledModel.Options(accelerator), environment);
        } catch (Exception error) { // Kotlin declares none of its exceptions; LiteRT's own is one among them
            throw new IOException(file + " on " + accelerator + ": " + error.getMessage(), error);
        }
        try {
            if (named) {
                for (Card.Port port : card.inputs) {
                    inputs.put(port.name, compiled.createInputBuffer(port.name, SIGNATURE));
                }
                for (Card.Port port : card.outputs) {
                    outputs.put(port.name, compiled.createOutputBuffer(port.name, SIGNATURE));
                }
            } else {
                number(compiled.createInputBuffers(), inputs);
                number(compiled.createOutputBuffers(), outputs);
            }
        } catch (Exception error) {
            close();
            throw new IOException(file + " on " + accelerator + ": " + error.getMessage(), error);
        }
    }

    private static void number(List<TensorBuffer> buffers, Map<String, TensorBuffer> named) {
        for (TensorBuffer buffer : buffers) {
            named.put(String.valueOf(named.size()), buffer);
        }
    }

    @Override
    public Object[] run(Object... values) throws IOException {
        try {
            int at = 0;
            for (TensorBuffer buffer : inputs.values()) {
                write(buffer, values[at++]);
            }
            if (named) {
                compiled.run(inputs, outputs, SIGNATURE);
            } else {
                compiled.run(new ArrayList<>(inputs.values()), new ArrayList<>(outputs.values()));
            }
            Object[] given = new Object[outputs.size()];
            at = 0;
            for (TensorBuffer buffer : outputs.values()) {
                given[at++] = values[0] instanceof byte[] ? buffer.readInt8() : buffer.readFloat();
            }
            return given;
        } catch (Exception error) {
            throw new IOException("LiteRT: " + error.getMessage(), error);
        }
    }

    /** Bytes go in as they are, whether the model takes them as signed or not. */
    private static void write(TensorBuffer buffer, Object value) throws Exception {
        if (value instanceof byte[]) {
            buffer.writeInt8((byte[]) value);
        } else {
            buffer.writeFloat((float[]) value);
        }
    }

    @Override
    public void close() {
        for (TensorBuffer buffer : inputs.values()) {
            buffer.close();
        }
        for (TensorBuffer buffer : outputs.values()) {
            buffer.close();
        }
        compiled.close();
    }
}
