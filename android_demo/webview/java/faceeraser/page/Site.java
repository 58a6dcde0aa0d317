package faceeraser.page;

import android.content.res.AssetManager;
import android.net.Uri;
import android.webkit.WebResourceResponse;
import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.util.HashMap;
import java.util.Iterator;
import java.util.Map;
import org.json.JSONArray;
import org.json.JSONException;
import org.json.JSONObject;

/** The page's files with the headers of its server, out of the app's assets; webview/pack.py wrote them. */
final class Site {
    /** Where the page is for the WebView. The name exists nowhere (RFC 2606), and https makes it a secure context. */
    static final String ORIGIN = "https://faceeraser.invalid";

    private final AssetManager assets;
    private final JSONObject files;
    private final Map<String, String> headers = new HashMap<String, String>();

    /** @throws IOException the app was packed without its page */
    Site(AssetManager assets) throws IOException {
        this.assets = assets;
        try {
            JSONObject told = new JSONObject(text(assets.open("site.json")));
            files = told.getJSONObject("files");
            JSONObject named = told.getJSONObject("headers");
            for (Iterator<?> names = named.keys(); names.hasNext();) {
                String name = (String) names.next();
                headers.put(name, named.getString(name));
            }
        } catch (JSONException error) {
            throw new IOException("site.json: " + error.getMessage(), error);
        }
    }

    /** What an address gets: the file, or 404 for everything else, wherever it is. */
    WebResourceResponse answer(Uri address) {
        JSONArray file = files.optJSONArray(String.valueOf(address.getPath()));
        boolean own = ORIGIN.equals(address.getScheme() + "://" + address.getAuthority());
        if (own && file != null) {
            try {
                String[] kind = file.getString(0).split("; charset=");
                return new WebResourceResponse(kind[0], kind.length > 1 ? kind[1] : null, 200, "OK", headers,
                        assets.open(file.getString(1)));
            } catch (IOException error) {
                return missing();
            } catch (JSONException error) {
                return missing();
            }
        }
        return missing();
    }

    private WebResourceResponse missing() {
        InputStream nothing = new ByteArrayInputStream(new byte[0]);
        return new WebResourceResponse("text/plain", "utf-8", 404, "Not Found", headers, nothing);
    }

    private static String text(InputStream in) throws IOException {
        try {
            ByteArrayOutputStream all = new ByteArrayOutputStream();
            byte[] some = new byte[1 << 14];
            for (int count = in.read(some); count >= 0; count = in.read(some)) {
                all.write(some, 0, count);
            }
            return all.toString("UTF-8");
        } finally {
            in.close();
        }
    }
}
