package faceeraser.page;

import android.Manifest;
import android.app.Activity;
import android.content.Intent;
import android.content.pm.PackageManager;
import android.net.Uri;
import android.os.Bundle;
import android.webkit.PermissionRequest;
import android.webkit.ValueCallback;
import android.webkit.WebChromeClient;
import android.webkit.WebResourceRequest;
import android.webkit.WebResourceResponse;
import android.webkit.WebSettings;
import android.webkit.WebView;
import android.webkit.WebViewClient;
import android.widget.TextView;
import java.io.IOException;

/**
 * The web demo as an app: a WebView that gets the page's files out of the app and nothing from anywhere else, and hands on
 * what the page asks of the phone, the camera and a picture. Written without lambdas, which Debian's dx does not take.
 */
public final class PageActivity extends Activity {
    private static final int ASK_CAMERA = 1;
    private static final int PICK_PICTURE = 2;

    private WebView page;
    private PermissionRequest asked;
    private ValueCallback<Uri[]> picked;

    @Override
    protected void onCreate(Bundle state) {
        super.onCreate(state);
        final Site site;
        try {
            site = new Site(getAssets());
        } catch (IOException error) {
            TextView text = new TextView(this);
            text.setText(error.getMessage());
            setContentView(text);
            return;
        }
        page = new WebView(this);
        WebSettings settings = page.getSettings();
        settings.setJavaScriptEnabled(true);
        settings.setMediaPlaybackRequiresUserGesture(false); // the camera's frames are a video
        settings.setAllowFileAccess(false);
        settings.setBlockNetworkLoads(true);
        page.setWebViewClient(new WebViewClient() {
            @Override
            public WebResourceResponse shouldInterceptRequest(WebView view, WebResourceRequest request) {
                return "blob".equals(request.getUrl().getScheme()) ? null : site.answer(request.getUrl());
            }

            @Override
            public void onPageFinished(WebView view, String url) {
                // The page says there whether a browser keeps it for later; here it is kept already.
                view.evaluateJavascript("document.getElementById('offline').hidden = true", null);
            }
        });
        page.setWebChromeClient(new WebChromeClient() {
            @Override
            public void onPermissionRequest(PermissionRequest request) {
                camera(request);
            }

            @Override
            public boolean onShowFileChooser(WebView view, ValueCallback<Uri[]> result, FileChooserParams wanted) {
                return pick(result, wanted.createIntent());
            }
        });
        setContentView(page);
        page.loadUrl(Site.ORIGIN + "/");
    }

    @Override
    protected void onPause() {
        super.onPause();
        if (page != null) {
            page.onPause();
        }
    }

    @Override
    protected void onResume() {
        super.onResume();
        if (page != null) {
            page.onResume();
        }
    }

    @Override
    protected void onDestroy() {
        if (page != null) {
            page.destroy();
        }
        super.onDestroy();
    }

    /** The page asks for the camera; the person may have to be asked first. Nothing else is granted. */
    private void camera(PermissionRequest request) {
        boolean ours = request.getOrigin().toString().startsWith(Site.ORIGIN)
                && request.getResources().length == 1
                && PermissionRequest.RESOURCE_VIDEO_CAPTURE.equals(request.getResources()[0]);
        if (!ours) {
            request.deny();
        } else if (checkSelfPermission(Manifest.permission.CAMERA) == PackageManager.PERMISSION_GRANTED) {
            request.grant(request.getResources());
        } else {
            asked = request;
            requestPermissions(new String[] {Manifest.permission.CAMERA}, ASK_CAMERA);
        }
    }

    @Override
    public void onRequestPermissionsResult(int code, String[] permissions, int[] results) {
        if (asked == null) {
            return;
        }
        if (results.length > 0 && results[0] == PackageManager.PERMISSION_GRANTED) {
            asked.grant(asked.getResources());
        } else {
            asked.deny();
        }
        asked = null;
    }

    private boolean pick(ValueCallback<Uri[]> result, Intent intent) {
        if (picked != null) {
            picked.onReceiveValue(null);
        }
        picked = result;
        startActivityForResult(intent, PICK_PICTURE);
        return true;
    }

    @Override
    protected void onActivityResult(int code, int result, Intent data) {
        super.onActivityResult(code, result, data);
        if (code == PICK_PICTURE && picked != null) {
            picked.onReceiveValue(WebChromeClient.FileChooserParams.parseResult(result, data));
            picked = null;
        }
    }
}
