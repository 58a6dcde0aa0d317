package faceeraser.core;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.Paths;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Deque;
import java.util.List;
import org.json.JSONArray;
import org.json.JSONException;
import org.json.JSONObject;
import org.junit.Assume;

/**
 * What the Python code makes of a face: the folder that tests/golden/make_face.py and make_camera.py wrote, whose docstrings
 * tell the form. Where there is none, tests that need it are skipped.
 */
final class Golden {
    /** The repository; Gradle runs tests in the module's folder, tests/test_android.py says where it is. */
    static final Path ROOT = Paths.get(System.getProperty("faceeraser.root", "../.."));
    private static final Path FOLDER = Paths.get(System.getProperty("faceeraser.golden", "build/golden"));
    static final String ALL = "brows,eyes,nose,mouth";

    private final JSONObject told;
    final String name;

    /** A case of face.json: upright, turned, small or large. */
    private Golden(String name) throws IOException, JSONException {
        this.name = name;
        this.told = face().getJSONObject("cases").getJSONObject(name);
    }

    static Golden upright() throws IOException, JSONException {
        return new Golden("upright");
    }

    static List<Golden> all() throws IOException, JSONException {
        List<Golden> all = new ArrayList<>();
        for (String name : new String[] {"upright", "turned", "small", "large"}) {
            all.add(new Golden(name));
        }
        return all;
    }

    /** A text of the repository. */
    static String text(String path) throws IOException {
        return new String(Files.readAllBytes(ROOT.resolve(path)), StandardCharsets.UTF_8);
    }

    private static JSONObject read(String file) throws IOException, JSONException {
        Path path = FOLDER.resolve(file);
        Assume.assumeTrue("no golden vectors in " + FOLDER + ": run tests/golden/make_face.py and make_camera.py",
                Files.isRegularFile(path));
        return new JSONObject(new String(Files.readAllBytes(path), StandardCharsets.UTF_8));
    }

    static JSONObject face() throws IOException, JSONException {
        return read("face.json");
    }

    static JSONObject camera() throws IOException, JSONException {
        return read("camera.json");
    }

    static byte[] bytes(JSONObject array) throws IOException, JSONException {
        return Files.readAllBytes(FOLDER.resolve(array.getString("file")));
    }

    static float[] floats(JSONObject array) throws IOException, JSONException {
        ByteBuffer bytes = ByteBuffer.wrap(bytes(array)).order(ByteOrder.LITTLE_ENDIAN);
        float[] floats = new float[bytes.remaining() / 4];
        bytes.asFloatBuffer().get(floats);
        return floats;
    }

    static Picture picture(JSONObject array) throws IOException, JSONException {
        return new Picture(array.getJSONArray("shape").getInt(1), array.getJSONArray("shape").getInt(0), bytes(array));
    }

    static Mask mask(JSONObject array) throws IOException, JSONException {
        return new Mask(array.getJSONArray("shape").getInt(1), array.getJSONArray("shape").getInt(0), bytes(array));
    }

    static double[] line(JSONArray row) throws JSONException {
        double[] line = new double[row.length()];
        for (int i = 0; i < line.length; i++) {
            line[i] = row.getDouble(i);
        }
        return line;
    }

    /** Points [[x, y], ...] as x, y, x, y, ... */
    static double[] points(JSONArray rows) throws JSONException {
        double[] points = new double[2 * rows.length()];
        for (int i = 0; i < rows.length(); i++) {
            points[2 * i] = rows.getJSONArray(i).getDouble(0);
            points[2 * i + 1] = rows.getJSONArray(i).getDouble(1);
        }
        return points;
    }

    /** The photograph. */
    Picture picture() throws IOException, JSONException {
        JSONArray shape = told.getJSONArray("shape");
        byte[] rgb = Files.readAllBytes(FOLDER.resolve("picture." + name + ".u8"));
        return new Picture(shape.getInt(1), shape.getInt(0), rgb);
    }

    /** What the case says of one thing. */
    JSONObject of(String what) throws JSONException {
        return told.getJSONObject(what);
    }

    double[] pointsOf(String what) throws JSONException {
        return points(told.getJSONArray(what));
    }

    JSONArray detections() throws JSONException {
        return told.getJSONArray("detections");
    }

    double number(String what) throws JSONException {
        return told.getDouble(what);
    }

    /** The largest face as Python found it. */
    Face found() throws JSONException {
        double[] points = pointsOf("mesh");
        float[] mesh = new float[points.length];
        for (int i = 0; i < mesh.length; i++) {
            mesh[i] = (float) points[i];
        }
        return new Face(mesh, 1, 0);
    }

    /** From the picture to the crop. */
    Affine matrix() throws JSONException {
        JSONArray rows = told.getJSONArray("matrix");
        double[] a = line(rows.getJSONArray(0));
        double[] b = line(rows.getJSONArray(1));
        return new Affine(a[0], a[1], a[2], b[0], b[1], b[2]);
    }

    /** A model that gives what was recorded, call by call, and keeps what it was asked. */
    static final class Replay implements Model {
        final Deque<Object[]> answers = new ArrayDeque<>();
        final Deque<Object[]> asked = new ArrayDeque<>();
        final Deque<float[]> expected = new ArrayDeque<>();

        Replay(Object[]... answers) {
            this.answers.addAll(Arrays.asList(answers));
        }

        @Override
        public Object[] run(Object... inputs) throws IOException {
            asked.add(inputs);
            if (answers.isEmpty()) {
                throw new IOException("asked once more than was recorded");
            }
            return answers.remove();
        }
    }

    /** What both models were asked and answered, in order: the detector, the meshes, and the mesh that follows. */
    Replay models() throws IOException, JSONException {
        Replay replay = new Replay();
        JSONArray runs = told.getJSONArray("models");
        for (int i = 0; i < runs.length(); i++) {
            JSONArray outputs = runs.getJSONObject(i).getJSONArray("outputs");
            replay.answers.add(new Object[] {floats(outputs.getJSONObject(0)), floats(outputs.getJSONObject(1))});
            replay.expected.add(floats(runs.getJSONObject(i).getJSONObject("input")));
        }
        return replay;
    }

    /** The network's answer: the plan, as the shipped file gives it. */
    Replay planner() throws IOException, JSONException {
        List<Object> answer = new ArrayList<>();
        for (Card.Port port : card().outputs) {
            answer.add(floats(of("plan").getJSONObject(port.name)));
        }
        return new Replay(new Object[][] {answer.toArray()});
    }

    /** What is in front of the face as Python's network says, however often it is asked. */
    Occluders occluders() throws IOException, JSONException {
        float[] front = floats(of("front"));
        return new Occluders(inputs -> new Object[] {front});
    }

    Plan plan(String which) throws IOException, JSONException {
        JSONObject plan = of(which);
        return new Plan(floats(plan.getJSONObject("skin")), floats(plan.getJSONObject("shading")),
                floats(plan.getJSONObject("sources")));
    }

    /** The shipped model's. */
    static Card card() throws IOException {
        return new Card(text("faceeraser/weights/plan.tflite.json"));
    }
}
