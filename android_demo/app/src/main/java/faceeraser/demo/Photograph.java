package faceeraser.demo;

import android.content.Context;
import android.graphics.Bitmap;
import android.graphics.BitmapFactory;
import android.graphics.Matrix;
import android.media.ExifInterface;
import android.net.Uri;
import faceeraser.core.Picture;
import java.io.File;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;

/** A photograph of the gallery as pixels, upright, and no larger than a phone's memory likes. */
final class Photograph {
    private static final int LONGEST = 2048; // pixels, of the longer side
    private static final int SHORTEST = 128; // what the detector sees

    private Photograph() {
    }

    /**
     * Reads it.
     *
     * @throws IOException it cannot be read, is no picture, or is too small; says which
     */
    static Picture read(Context context, Uri uri) throws IOException {
        // By way of a file: it is read three times, for its size, its pixels and its orientation.
        File copy = File.createTempFile("picture", null, context.getCacheDir());
        try {
            try (InputStream in = context.getContentResolver().openInputStream(uri);
                    OutputStream out = new FileOutputStream(copy)) {
                if (in == null) {
                    throw new IOException("nothing is there");
                }
                byte[] some = new byte[1 << 16];
                for (int count = in.read(some); count >= 0; count = in.read(some)) {
                    out.write(some, 0, count);
                }
            }
            return pixels(decoded(copy.getPath()));
        } finally {
            copy.delete();
        }
    }

    private static Bitmap decoded(String path) throws IOException {
        BitmapFactory.Options options = new BitmapFactory.Options();
        options.inJustDecodeBounds = true;
        BitmapFactory.decodeFile(path, options);
        int longer = Math.max(options.outWidth, options.outHeight);
        if (longer <= 0) {
            throw new IOException("it is no picture");
        }
        if (longer < SHORTEST) {
            throw new IOException("it is smaller than " + SHORTEST + " pixels");
        }
        options.inJustDecodeBounds = false;
        options.inSampleSize = 1;
        while (longer / options.inSampleSize > LONGEST) {
            options.inSampleSize *= 2;
        }
        Bitmap bitmap = BitmapFactory.decodeFile(path, options);
        if (bitmap == null) {
            throw new IOException("it is damaged");
        }
        Matrix upright = upright(new ExifInterface(path).getAttributeInt(ExifInterface.TAG_ORIENTATION,
                ExifInterface.ORIENTATION_NORMAL));
        return upright.isIdentity() ? bitmap
                : Bitmap.createBitmap(bitmap, 0, 0, bitmap.getWidth(), bitmap.getHeight(), upright, true);
    }

    /** What makes a picture of an EXIF orientation stand upright. */
    private static Matrix upright(int orientation) {
        Matrix turn = new Matrix();
        switch (orientation) {
            case ExifInterface.ORIENTATION_FLIP_HORIZONTAL:
                turn.setScale(-1, 1);
                break;
            case ExifInterface.ORIENTATION_ROTATE_180:
                turn.setRotate(180);
                break;
            case ExifInterface.ORIENTATION_FLIP_VERTICAL:
                turn.setScale(1, -1);
                break;
            case ExifInterface.ORIENTATION_TRANSPOSE:
                turn.setRotate(90);
                turn.postScale(-1, 1);
                break;
            case ExifInterface.ORIENTATION_ROTATE_90:
                turn.setRotate(90);
                break;
            case ExifInterface.ORIENTATION_TRANSVERSE:
                turn.setRotate(-90);
                turn.postScale(-1, 1);
                break;
            case ExifInterface.ORIENTATION_ROTATE_270:
                turn.setRotate(-90);
                break;
            default:
                break;
        }
        return turn;
    }

    private static Picture pixels(Bitmap bitmap) {
        int width = bitmap.getWidth();
        int height = bitmap.getHeight();
        int[] row = new int[width];
        byte[] rgb = new byte[3 * width * height];
        for (int y = 0; y < height; y++) {
            bitmap.getPixels(row, 0, width, 0, y, width, 1);
            for (int x = 0; x < width; x++) {
                int at = 3 * (y * width + x);
                rgb[at] = (byte) (row[x] >> 16);
                rgb[at + 1] = (byte) (row[x] >> 8);
                rgb[at + 2] = (byte) row[x];
            }
        }
        return new Picture(width, height, rgb);
    }
}
