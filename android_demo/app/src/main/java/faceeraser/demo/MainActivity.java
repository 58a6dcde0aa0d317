package faceeraser.demo;

import android.Manifest;
import android.app.Activity;
import android.content.Intent;
import android.content.pm.PackageManager;
import android.graphics.Bitmap;
import android.hardware.camera2.CameraAccessException;
import android.net.Uri;
import android.os.Bundle;
import android.provider.Settings;
import android.view.MotionEvent;
import android.view.View;
import android.view.WindowManager;
import android.widget.CheckBox;
import android.widget.ImageView;
import android.widget.RadioButton;
import android.widget.RadioGroup;
import android.widget.TextView;
import faceeraser.core.Parts;
import faceeraser.core.Picture;
import faceeraser.core.Scene;
import java.io.IOException;
import java.util.List;

/** The one screen: the camera, or a picture, with the face erased; buttons for parts and effects; how long it takes. */
public final class MainActivity extends Activity implements Worker.Listener, Camera.Listener {
    private static final int ASK_CAMERA = 1;
    private static final int PICK_PICTURE = 2;
    /** The boxes of the parts, in the order of their bits. */
    private static final int[] PARTS = {R.id.brows, R.id.eyes, R.id.nose, R.id.mouth, R.id.glasses};

    private Worker worker;
    private Camera camera;
    private int cameraNumber;
    private boolean live = true;
    private boolean ready;
    private boolean started;
    private Picture photograph;
    private String effect;
    private Bitmap after;
    private Bitmap before;
    private boolean held;
    private ImageView shown;
    private TextView message;
    private TextView figures;

    @Override
    protected void onCreate(Bundle state) {
        super.onCreate(state);
        setContentView(R.layout.main);
        getWindow().addFlags(WindowManager.LayoutParams.FLAG_KEEP_SCREEN_ON);
        shown = (ImageView) findViewById(R.id.shown);
        message = (TextView) findViewById(R.id.message);
        figures = (TextView) findViewById(R.id.figures);
        shown.setOnTouchListener((view, event) -> hold(view, event));
        for (int part : PARTS) {
            ((CheckBox) findViewById(part)).setOnCheckedChangeListener((box, on) -> choose());
        }
        findViewById(R.id.allow).setOnClickListener(view -> ask());
        findViewById(R.id.camera).setOnClickListener(view -> look(cameraNumber));
        findViewById(R.id.other).setOnClickListener(view -> look(cameraNumber + 1));
        findViewById(R.id.picture).setOnClickListener(view -> pick());
        worker = new Worker(this, choice(), this);
        if (!allowed()) {
            requestPermissions(new String[] {Manifest.permission.CAMERA}, ASK_CAMERA);
        }
    }

    @Override
    protected void onStart() {
        super.onStart();
        started = true;
        open();
    }

    @Override
    protected void onStop() {
        started = false;
        shut();
        super.onStop();
    }

    @Override
    protected void onDestroy() {
        worker.stop();
        super.onDestroy();
    }

    // --- what is chosen

    private Scene.Choice choice() {
        int bits = 0;
        for (int i = 0; i < PARTS.length; i++) {
            bits |= ((CheckBox) findViewById(PARTS[i])).isChecked() ? 1 << i : 0;
        }
        return new Scene.Choice(bits, effect);
    }

    private void choose() {
        worker.choose(choice());
        for (int part : PARTS) { // an effect erases every feature; glasses stay a choice
            findViewById(part).setEnabled(effect == null || part == R.id.glasses);
        }
        if (photograph != null) {
            worker.photograph(photograph);
        }
    }

    private boolean hold(View view, MotionEvent event) {
        int action = event.getActionMasked();
        if (action == MotionEvent.ACTION_DOWN) {
            held = true;
        } else if (action == MotionEvent.ACTION_UP || action == MotionEvent.ACTION_CANCEL) {
            held = false;
            view.performClick();
        }
        shown.setImageBitmap(held ? before : after);
        return true;
    }

    // --- the worker

    @Override
    public void ready(List<String> effects) {
        ready = true;
        message.setVisibility(View.GONE);
        RadioGroup group = (RadioGroup) findViewById(R.id.effects);
        addEffect(group, getString(R.string.no_effect), null);
        for (String name : effects) {
            addEffect(group, name, name);
        }
        ((RadioButton) group.getChildAt(0)).setChecked(true);
        open();
    }

    private void addEffect(RadioGroup group, String text, String name) {
        RadioButton button = new RadioButton(this);
        button.setText(text);
        button.setMinHeight(getResources().getDimensionPixelSize(R.dimen.finger));
        button.setOnCheckedChangeListener((view, on) -> {
            if (on) {
                effect = name;
                choose();
            }
        });
        group.addView(button);
    }

    @Override
    public void shown(Bitmap changed, Bitmap unchanged, Scene.Shown told, double fps) {
        if (live != (fps > 0)) {
            return; // a last frame of the camera after a picture was opened, or the other way round
        }
        after = changed;
        before = unchanged;
        shown.setImageBitmap(held ? before : after);
        figures.setText(live
                ? getString(R.string.figures, fps, told.findMs, told.eraseMs, told.effectMs, worker.accelerator())
                : getString(R.string.once, told.findMs, told.eraseMs, told.effectMs, worker.accelerator()));
        if (told.faces == 0) {
            say(getString(live ? R.string.no_face : R.string.no_face_in_picture));
        } else {
            message.setVisibility(View.GONE);
        }
    }

    @Override
    public void failed(Exception error) {
        say(getString(R.string.failed, error.getMessage()));
    }

    private void say(String text) {
        message.setText(text);
        message.setVisibility(View.VISIBLE);
    }

    // --- the camera

    private boolean allowed() {
        return checkSelfPermission(Manifest.permission.CAMERA) == PackageManager.PERMISSION_GRANTED;
    }

    private void ask() {
        if (shouldShowRequestPermissionRationale(Manifest.permission.CAMERA)) {
            requestPermissions(new String[] {Manifest.permission.CAMERA}, ASK_CAMERA);
        } else { // refused for good: only the settings can change that
            startActivity(new Intent(Settings.ACTION_APPLICATION_DETAILS_SETTINGS,
                    Uri.fromParts("package", getPackageName(), null)));
        }
    }

    @Override
    public void onRequestPermissionsResult(int request, String[] permissions, int[] results) {
        open();
    }

    /** Back to the camera, the one of this number. */
    private void look(int number) {
        shut();
        cameraNumber = number;
        photograph = null;
        live = true;
        open();
    }

    /** Starts the camera where everything is there for it; says what is missing. */
    private void open() {
        if (!started || !ready || !live || camera != null) {
            return;
        }
        findViewById(R.id.allow).setVisibility(allowed() ? View.GONE : View.VISIBLE);
        if (!allowed()) {
            say(getString(R.string.no_permission));
            return;
        }
        try {
            String[] ids = Camera.ids(this);
            if (ids.length == 0) {
                say(getString(R.string.no_camera));
                return;
            }
            cameraNumber %= ids.length;
            worker.forget();
            camera = new Camera(this, ids[cameraNumber], worker.handler(), this::turned, this);
        } catch (CameraAccessException error) {
            say(getString(R.string.camera_failed, error.getMessage()));
        }
    }

    private void shut() {
        if (camera != null) {
            camera.close();
            camera = null;
        }
    }

    private int turned() {
        return 90 * getWindowManager().getDefaultDisplay().getRotation();
    }

    @Override
    public void frame(Picture picture, long taken) {
        worker.frame(picture, taken);
    }

    @Override
    public void failed(String reason) {
        runOnUiThread(() -> {
            shut();
            say(getString(R.string.camera_failed, reason));
        });
    }

    // --- a picture

    private void pick() {
        Intent intent = new Intent(Intent.ACTION_GET_CONTENT);
        intent.setType("image/*");
        intent.addCategory(Intent.CATEGORY_OPENABLE);
        startActivityForResult(Intent.createChooser(intent, getString(R.string.picture)), PICK_PICTURE);
    }

    @Override
    protected void onActivityResult(int request, int result, Intent data) {
        super.onActivityResult(request, result, data);
        if (request != PICK_PICTURE || result != RESULT_OK || data == null || data.getData() == null) {
            return;
        }
        Uri uri = data.getData();
        shut();
        live = false;
        findViewById(R.id.allow).setVisibility(View.GONE);
        say(getString(R.string.loading));
        worker.handler().post(() -> {
            try {
                Picture picture = Photograph.read(this, uri);
                runOnUiThread(() -> {
                    photograph = picture;
                    worker.photograph(picture);
                });
            } catch (IOException | RuntimeException error) {
                runOnUiThread(() -> say(getString(R.string.bad_picture, error.getMessage())));
            }
        });
    }
}
