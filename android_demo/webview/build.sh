#!/usr/bin/env bash
# Builds and signs the web demo as an app for phones from Debian's packages alone, without the Android SDK:
#
#     make web
#     bash android_demo/webview/build.sh [APK]         APK: android_demo/webview/build/faceeraser-page.apk
#
# Wanted: javac and keytool, the Python environment of this repository (PYTHON, .venv/bin/python), the built page (PAGE, where
# `make web` puts it), and what tests/fetch_android_tools.sh fetches (TOOLS, .cache/android; fetched when it is not there).
# The key is made on first use, beside the APK: it is for trying out, not for a store.
set -euo pipefail
cd "$(dirname "$0")/../.."
here=android_demo/webview
apk="$(realpath -m "${1:-$here/build/faceeraser-page.apk}")"
python="${PYTHON:-.venv/bin/python}"
tools="${TOOLS:-.cache/android}"
for tool in javac keytool; do
    command -v "$tool" >/dev/null || { echo "build.sh: no $tool; install a JDK" >&2; exit 2; }
done
command -v "$python" >/dev/null || { echo "build.sh: no $python; run make setup, or name one: PYTHON=python3" >&2; exit 2; }
[[ -e "$tools/tools/.whole" && -e "$tools/old/.whole" ]] || bash tests/fetch_android_tools.sh "$tools" >/dev/null
tools="$(cd "$tools" && pwd)"
android="$tools/old/usr/lib/android-sdk/platforms/android-23/android.jar"
java="$tools/tools/usr/share/java"

# Programs of another day's Debian with that day's libraries.
with_libraries() {
    local lib="$tools/tools/usr/lib" base="$tools/tools"
    LD_LIBRARY_PATH="$lib/x86_64-linux-gnu:$lib/x86_64-linux-gnu/android:$base/lib/x86_64-linux-gnu:$lib:$lib/p7zip" \
        "$tools/tools/usr/bin/$1" "${@:2}"
}

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/assets" "$work/res" "$work/java" "$work/classes" "$(dirname "$apk")"
"$python" "$here/pack.py" "$work/assets" ${PAGE:+--page "$PAGE"} >&2
cp -r "$here/res/." "$work/res/"
cp -r android_demo/app/src/main/res/drawable "$work/res/"

with_libraries aapt package -f -m -J "$work/java" -M "$here/AndroidManifest.xml" -S "$work/res" -A "$work/assets" \
    -I "$android" -F "$work/plain.apk"
# Against Android's own classes, java.lang's too; these know no lambdas, and neither does dx.
javac -nowarn -Xlint:-options -source 8 -target 8 -bootclasspath "$android" -d "$work/classes" \
    $(find "$here/java" "$work/java" -name '*.java') >&2
java -cp "$tools/old/usr/share/java/com.android.dx.jar" com.android.dx.command.Main --dex --min-sdk-version=24 \
    --output="$work/classes.dex" "$work/classes"
(cd "$work" && with_libraries aapt add plain.apk classes.dex >/dev/null)
with_libraries zipalign -f 4 "$work/plain.apk" "$work/aligned.apk"

key="$(dirname "$apk")/trial.keystore"
[[ -f "$key" ]] || keytool -genkeypair -keystore "$key" -storepass trial-only -keypass trial-only -alias trial -keyalg RSA \
    -keysize 2048 -validity 10000 -dname "CN=FaceEraser trial" 2>/dev/null
sign() { java -cp "$java/apksigner.jar:$java/apksig.jar" com.android.apksigner.ApkSignerTool "$@"; }
sign sign --ks "$key" --ks-pass pass:trial-only --min-sdk-version 24 --out "$work/signed.apk" "$work/aligned.apk"
sign verify --min-sdk-version 24 "$work/signed.apk"
mv "$work/signed.apk" "$apk"
echo "$apk"
