package faceeraser.demo;

import android.content.Context;
import android.content.res.AssetManager;
import android.graphics.Bitmap;
import android.os.Handler;
import android.os.HandlerThread;
import android.os.Looper;
import android.util.Log;
import com.google.ai.edge.litert.Accelerator;
import com.google.ai.edge.litert.Environment;
import faceeraser.core.Card;
import faceeraser.core.Effects;
import faceeraser.core.Eraser;
import faceeraser.core.FaceFinder;
import faceeraser.core.Occluders;
import faceeraser.core.Picture;
import faceeraser.core.Scene;
import faceeraser.core.Tracker;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.nio.charset.StandardCharsets;
import java.util.List;

/**
 * The one thread that loads the models, takes pictures and changes them. The camera's frames come in on it, so while it
 * works they wait, and of those that came meanwhile only the latest is taken.
 */
final class Worker {
    private static final String MODEL = "plan.tflite";
    private static final double LONGEST_STEP = 1; // seconds; after a longer pause the faces are somewhere else

    /** What is told on the main thread. */
    interface Listener {
        /** The models are loaded; the effects that there are. */
        void ready(List<String> effects);

        /** A picture to show: with the face erased, and as it was. */
        void shown(Bitmap after, Bitmap before, Scene.Shown figures, double fps);

        /** Something does not work; why. */
        void failed(Exception error);
    }

    private final HandlerThread thread = new HandlerThread("erasing");
    private final Handler handler;
    private final Handler main = new Handler(Looper.getMainLooper());
    private final Listener listener;
    private volatile Scene.Choice choice;
    private Scene scene;
    private volatile String accelerator;
    private long lastFrame;
    private double fps;

    /** Starts the thread and the loading. */
    Worker(Context context, Scene.Choice choice, Listener listener) {
        this.listener = listener;
        this.choice = choice;
        thread.start();
        handler = new Handler(thread.getLooper());
        AssetManager assets = context.getAssets();
        handler.post(() -> load(assets));
    }

    /** The handler whose thread everything runs on; the camera gives its frames there. */
    Handler handler() {
        return handler;
    }

    /** What is erased and put on from the next picture on. */
    void choose(Scene.Choice chosen) {
        choice = chosen;
    }

    /** Where the network runs: CPU or GPU. */
    String accelerator() {
        return accelerator;
    }

    /** The next frames come from another camera. */
    void forget() {
        handler.post(() -> {
            lastFrame = 0;
            if (scene != null) {
                scene.forget();
            }
        });
    }

    /** Ends the thread when it has done what it is doing. */
    void stop() {
        thread.quitSafely();
    }

    private void load(AssetManager assets) {
        try {
            Card card = new Card(new String(bytes(assets, MODEL + ".json"), StandardCharsets.UTF_8));
            card.check(bytes(assets, MODEL));
            Environment environment = Environment.create();
            FaceFinder finder = new FaceFinder(
                    new LiteRtModel(assets, "face_detection_short_range.tflite", null, Accelerator.CPU, environment),
                    new LiteRtModel(assets, "face_landmark.tflite", null, Accelerator.CPU, environment));
            Effects effects = new Effects(new String(bytes(assets, "effects.json"), StandardCharsets.UTF_8));
            Tracker tracker = new Tracker(finder, new String(bytes(assets, "tracking.json"), StandardCharsets.UTF_8));
            Occluders occluders = new Occluders(
                    new LiteRtModel(assets, "occlusion.tflite", null, Accelerator.CPU, environment));
            Eraser eraser = new Eraser(card, network(assets, card, environment), occluders);
            scene = new Scene(finder, tracker, eraser, effects);
            List<String> names = effects.names();
            main.post(() -> listener.ready(names));
        } catch (IOException | RuntimeException error) {
            main.post(() -> listener.failed(error));
        }
    }

    /** The network on the GPU where that takes it and computes the same, else on the processor. */
    private LiteRtModel network(AssetManager assets, Card card, Environment environment) throws IOException {
        LiteRtModel processor = new LiteRtModel(assets, MODEL, card, Accelerator.CPU, environment);
        try {
            LiteRtModel gpu = new LiteRtModel(assets, MODEL, card, Accelerator.GPU, environment);
            if (Eraser.agree(card, processor, gpu)) {
                processor.close();
                accelerator = Accelerator.GPU.name();
                return gpu;
            }
            gpu.close();
        } catch (IOException | LinkageError error) {
            // No phone's GPU takes every file; what the processor does is right, and slower.
            Log.i("FaceEraser", "not on the GPU: " + error.getMessage());
        }
        accelerator = Accelerator.CPU.name();
        return processor;
    }

    private static byte[] bytes(AssetManager assets, String name) throws IOException {
        try (InputStream in = assets.open(name)) {
            ByteArrayOutputStream all = new ByteArrayOutputStream();
            byte[] some = new byte[1 << 16];
            for (int count = in.read(some); count >= 0; count = in.read(some)) {
                all.write(some, 0, count);
            }
            return all.toByteArray();
        }
    }

    /** Changes a frame of the camera, taken at a time in nanoseconds, and shows it. Called on the handler's thread. */
    void frame(Picture picture, long taken) {
        if (scene == null) {
            return;
        }
        double seconds = (taken - lastFrame) / 1e9;
        if (lastFrame == 0 || seconds > LONGEST_STEP) {
            scene.forget();
            fps = 0;
        }
        seconds = Math.max(1e-3, Math.min(seconds, LONGEST_STEP));
        fps = fps == 0 ? 1 / seconds : 0.9 * fps + 0.1 / seconds;
        lastFrame = taken;
        try {
            show(scene.frame(picture, seconds, choice), fps);
        } catch (IOException | RuntimeException error) {
            main.post(() -> listener.failed(error));
        }
    }

    /** Changes a photograph and shows it; from any thread. */
    void photograph(Picture picture) {
        handler.post(() -> {
            try {
                if (scene != null) {
                    show(scene.photograph(picture, choice), 0);
                }
            } catch (IOException | RuntimeException error) {
                main.post(() -> listener.failed(error));
            }
        });
    }

    private void show(Scene.Shown figures, double now) {
        Bitmap after = bitmap(figures.after);
        Bitmap before = bitmap(figures.before);
        main.post(() -> listener.shown(after, before, figures, now));
    }

    private static Bitmap bitmap(Picture picture) {
        int[] colours = new int[picture.width * picture.height];
        for (int i = 0; i < colours.length; i++) {
            colours[i] = 0xff000000 | (picture.rgb[3 * i] & 0xff) << 16 | (picture.rgb[3 * i + 1] & 0xff) << 8
                    | picture.rgb[3 * i + 2] & 0xff;
        }
        return Bitmap.createBitmap(colours, picture.width, picture.height, Bitmap.Config.ARGB_8888);
    }
}
