package faceeraser.demo;

import android.content.Context;
import android.graphics.ImageFormat;
import android.hardware.camera2.CameraAccessException;
import android.hardware.camera2.CameraCaptureSession;
import android.hardware.camera2.CameraCharacteristics;
import android.hardware.camera2.CameraDevice;
import android.hardware.camera2.CameraManager;
import android.hardware.camera2.CaptureRequest;
import android.hardware.camera2.params.StreamConfigurationMap;
import android.media.Image;
import android.media.ImageReader;
import android.os.Handler;
import android.util.Size;
import android.view.Surface;
import faceeraser.core.Picture;
import faceeraser.core.Yuv;
import java.util.Collections;

/** One camera whose frames come upright and in RGB, the latest only, on a handler's thread. */
final class Camera implements AutoCloseable {
    private static final int PIXELS = 640 * 480; // what is asked for, or the size nearest to it: faces need no more
    private static final int KEPT = 2; // frames: one in hand, one that comes in

    /** What is told, on the handler's thread. */
    interface Listener {
        /** A frame, upright, and when it was taken in nanoseconds. */
        void frame(Picture picture, long taken);

        /** The camera cannot be used; why. */
        void failed(String reason);
    }

    /** How far the display is turned now, in degrees. */
    interface Display {
        int degrees();
    }

    private final ImageReader reader;
    private final Handler handler;
    private final Listener listener;
    private CameraDevice device;
    private boolean closed;

    /**
     * Opens it; what fails then is told to the listener.
     *
     * @param id one of {@link #ids}
     * @throws CameraAccessException what it can do is not to be had
     */
    Camera(Context context, String id, Handler handler, Display display, Listener listener) throws CameraAccessException {
        this.handler = handler;
        this.listener = listener;
        CameraManager manager = (CameraManager) context.getSystemService(Context.CAMERA_SERVICE);
        CameraCharacteristics known = manager.getCameraCharacteristics(id);
        Integer sensor = known.get(CameraCharacteristics.SENSOR_ORIENTATION);
        Integer facing = known.get(CameraCharacteristics.LENS_FACING);
        boolean front = facing != null && facing == CameraCharacteristics.LENS_FACING_FRONT;
        int turned = sensor == null ? 0 : sensor;
        Size size = size(known.get(CameraCharacteristics.SCALER_STREAM_CONFIGURATION_MAP));
        reader = ImageReader.newInstance(size.getWidth(), size.getHeight(), ImageFormat.YUV_420_888, KEPT);
        reader.setOnImageAvailableListener(source -> take(source, turned, front, display), handler);
        // On the handler, where the camera before this one is closed first.
        handler.post(() -> open(manager, id));
    }

    private void open(CameraManager manager, String id) {
        try {
            if (!closed) {
                manager.openCamera(id, new Opened(), handler);
            }
        } catch (CameraAccessException | SecurityException | IllegalArgumentException error) {
            listener.failed(String.valueOf(error.getMessage()));
        }
    }

    /** The cameras that there are, those that look at the person first. */
    static String[] ids(Context context) throws CameraAccessException {
        CameraManager manager = (CameraManager) context.getSystemService(Context.CAMERA_SERVICE);
        String[] ids = manager.getCameraIdList();
        String[] sorted = new String[ids.length];
        int count = 0;
        for (int pass = 0; pass < 2; pass++) {
            for (String id : ids) {
                Integer facing = manager.getCameraCharacteristics(id).get(CameraCharacteristics.LENS_FACING);
                boolean front = facing != null && facing == CameraCharacteristics.LENS_FACING_FRONT;
                if (front == (pass == 0)) {
                    sorted[count++] = id;
                }
            }
        }
        return sorted;
    }

    private static Size size(StreamConfigurationMap map) throws CameraAccessException {
        Size[] sizes = map == null ? null : map.getOutputSizes(ImageFormat.YUV_420_888);
        if (sizes == null || sizes.length == 0) {
            throw new CameraAccessException(CameraAccessException.CAMERA_ERROR, "it gives no YUV_420_888");
        }
        Size best = sizes[0];
        for (Size size : sizes) {
            if (Math.abs(pixels(size) - PIXELS) < Math.abs(pixels(best) - PIXELS)) {
                best = size;
            }
        }
        return best;
    }

    private static int pixels(Size size) {
        return size.getWidth() * size.getHeight();
    }

    private void take(ImageReader source, int sensor, boolean front, Display display) {
        Picture picture;
        long taken;
        try (Image image = source.acquireLatestImage()) {
            if (image == null || closed) {
                return;
            }
            Image.Plane[] planes = image.getPlanes();
            picture = Yuv.rgb(plane(planes[0]), plane(planes[1]), plane(planes[2]), image.getWidth(), image.getHeight(),
                    Yuv.turn(sensor, display.degrees(), front), front);
            taken = image.getTimestamp();
        }
        // The frame is given back before the work begins, so that the camera can fill it again.
        listener.frame(picture, taken);
    }

    private static Yuv.Plane plane(Image.Plane plane) {
        return new Yuv.Plane(plane.getBuffer(), plane.getRowStride(), plane.getPixelStride());
    }

    /** From opening to the first frames. */
    private final class Opened extends CameraDevice.StateCallback {
        @Override
        public void onOpened(CameraDevice opened) {
            if (closed) {
                opened.close();
                return;
            }
            device = opened;
            try {
                Surface surface = reader.getSurface();
                CaptureRequest.Builder request = opened.createCaptureRequest(CameraDevice.TEMPLATE_PREVIEW);
                request.addTarget(surface);
                opened.createCaptureSession(Collections.singletonList(surface), new Running(request.build()), handler);
            } catch (CameraAccessException | IllegalStateException error) {
                listener.failed(String.valueOf(error.getMessage()));
            }
        }

        @Override
        public void onDisconnected(CameraDevice lost) {
            device = lost;
            close();
            listener.failed("another app took it");
        }

        @Override
        public void onError(CameraDevice broken, int code) {
            device = broken;
            close();
            listener.failed("error " + code);
        }
    }

    /** Asks for frames again and again. */
    private final class Running extends CameraCaptureSession.StateCallback {
        private final CaptureRequest request;

        Running(CaptureRequest request) {
            this.request = request;
        }

        @Override
        public void onConfigured(CameraCaptureSession session) {
            try {
                if (!closed) {
                    session.setRepeatingRequest(request, null, handler);
                }
            } catch (CameraAccessException | IllegalStateException error) {
                listener.failed(String.valueOf(error.getMessage()));
            }
        }

        @Override
        public void onConfigureFailed(CameraCaptureSession session) {
            listener.failed("it cannot be set up");
        }
    }

    /** Gives the camera back; on any thread. */
    @Override
    public void close() {
        handler.post(() -> {
            closed = true;
            if (device != null) {
                device.close();
                device = null;
            }
            reader.close();
        });
    }
}
