package faceeraser.core;

import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import org.json.JSONArray;
import org.json.JSONException;
import org.json.JSONObject;

/** What an exported file says of itself, FILE.json beside it (see docs/cards.md): how to fill it and read it. */
public final class Card {
    private static final int FORMAT = 1;

    /** Edge length of the square picture it takes, in pixels. */
    public final int resolution;
    /** fp32, fp16 or int8. */
    public final String precision;
    /** In the card's order. */
    public final List<Port> inputs;
    public final List<Port> outputs;
    private final String sha256;

    /** One input or output: how to put numbers in [0, 1] into it, or to take them out. */
    public static final class Port {
        public final String name;
        private final boolean whole;
        private final boolean signed;
        private final boolean channelsFirst;
        private final int channels;
        private final int pixels;
        private final double scale;
        private final int zero;
        private final double low;
        private final double high;

        private Port(JSONObject told) throws JSONException {
            name = told.getString("name");
            String dtype = told.getString("dtype");
            String layout = told.getString("layout");
            JSONArray shape = told.getJSONArray("shape");
            if (!dtype.equals("float32") && !dtype.equals("uint8") && !dtype.equals("int8")) {
                throw new JSONException(name + ": found dtype " + dtype + "; expected float32, uint8 or int8");
            }
            boolean list = layout.equals("NC");
            if (!list && !layout.equals("NHWC") && !layout.equals("NCHW") || shape.length() != (list ? 2 : 4)
                    || shape.optInt(0) != 1) {
                throw new JSONException(name + ": found shape " + shape + " and layout " + layout
                        + "; expected one picture, NHWC or NCHW, or one list, NC");
            }
            whole = !dtype.equals("float32");
            signed = dtype.equals("int8");
            channelsFirst = layout.equals("NCHW");
            channels = list ? 1 : shape.getInt(channelsFirst ? 1 : 3);
            pixels = list ? shape.getInt(1) : shape.getInt(channelsFirst ? 2 : 1) * shape.getInt(channelsFirst ? 3 : 2);
            // A list's numbers are meant as they are; a picture's go from 0 to 1, whatever the file counts in.
            low = list ? 0 : told.getJSONArray("range").getDouble(0);
            high = list ? 1 : told.getJSONArray("range").getDouble(1);
            // Without a scale an integer port takes plain 8-bit pictures, and masks of 0 and 1.
            JSONObject quantization = told.optJSONObject("quantization");
            scale = quantization != null ? quantization.getDouble("scale") : channels == 3 ? 1 / 255.0 : 1;
            zero = quantization != null ? quantization.getInt("zero_point") : 0;
        }

        /**
         * Numbers as the model wants them.
         *
         * @param values in [0, 1], pixel by pixel, a pixel's channels beside one another
         * @return float[], or byte[] where the model takes 8-bit integers
         */
        Object pack(float[] values) {
            if (values.length != pixels * channels) {
                throw new IllegalArgumentException(name + ": found " + values.length + " numbers; expected "
                        + pixels * channels);
            }
            float[] floats = new float[values.length];
            byte[] bytes = new byte[whole ? values.length : 0];
            for (int i = 0; i < values.length; i++) {
                int to = channelsFirst ? i % channels * pixels + i / channels : i;
                double value = low + values[i] * (high - low);
                if (whole) {
                    long level = (long) Math.rint(value / scale) + zero;
                    bytes[to] = (byte) Math.max(signed ? -128 : 0, Math.min(level, signed ? 127 : 255));
                } else {
                    floats[to] = (float) value;
                }
            }
            return whole ? bytes : floats;
        }

        /** What the model gave, float[] or byte[], as numbers in [0, 1], pixel by pixel, or of a list as they are. */
        float[] unpack(Object given) {
            int length = given instanceof byte[] ? ((byte[]) given).length : ((float[]) given).length;
            if (length != pixels * channels) {
                throw new IllegalArgumentException(name + ": found " + length + " numbers; expected " + pixels * channels);
            }
            float[] values = new float[length];
            for (int i = 0; i < length; i++) {
                int from = channelsFirst ? i % channels * pixels + i / channels : i;
                double value = whole ? ((signed ? ((byte[]) given)[from] : ((byte[]) given)[from] & 0xff) - zero) * scale
                        : ((float[]) given)[from];
                values[i] = (float) ((value - low) / (high - low));
            }
            return values;
        }
    }

    /**
     * @param json the card's text
     * @throws IllegalArgumentException it is no card, or one of a picture that this program cannot fill; says what was found
     */
    public Card(String json) {
        try {
            JSONObject told = new JSONObject(json);
            if (told.optInt("format") != FORMAT) {
                throw new JSONException("found format " + told.opt("format") + "; expected " + FORMAT + ": export again");
            }
            if (!told.getString("edges").equals("inside")) {
                throw new JSONException("found edges " + told.getString("edges")
                        + "; expected a file with Canny inside: export without --edges input");
            }
            resolution = told.getInt("resolution");
            precision = told.getString("precision");
            sha256 = told.getString("sha256");
            inputs = ports(told.getJSONArray("inputs"));
            outputs = ports(told.getJSONArray("outputs"));
        } catch (JSONException error) {
            throw new IllegalArgumentException("the model's card: " + error.getMessage(), error);
        }
    }

    private static List<Port> ports(JSONArray told) throws JSONException {
        List<Port> ports = new ArrayList<>();
        for (int i = 0; i < told.length(); i++) {
            ports.add(new Port(told.getJSONObject(i)));
        }
        return Collections.unmodifiableList(ports);
    }

    /**
     * Makes sure that a file is the one that this card was written for.
     *
     * @throws IllegalArgumentException it is another
     */
    public void check(byte[] file) {
        StringBuilder found = new StringBuilder();
        try {
            for (byte part : MessageDigest.getInstance("SHA-256").digest(file)) {
                found.append(String.format("%02x", part));
            }
        } catch (NoSuchAlgorithmException error) {
            throw new IllegalStateException(error); // every Java has it
        }
        if (!found.toString().equals(sha256)) {
            throw new IllegalArgumentException("the model's sha256 is " + found + ", its card says " + sha256
                    + ": they do not belong together; copy both again");
        }
    }
}
