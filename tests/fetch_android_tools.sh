#!/usr/bin/env bash
# Fetches what tests the Android demo and builds the page's app, without root and without installing anything; Java itself
# (javac, keytool) has to be there:
#
#     bash tests/fetch_android_tools.sh [FOLDER]       FOLDER: .cache/android
#
#   FOLDER/tools/    aapt, aapt2, zipalign with their libraries, apksigner, JUnit 4 and Android's org.json, of bookworm
#   FOLDER/old/      android.jar of API level 23 and dx, of bullseye, the last suite that has both
#
# Packages come as tests/debian_packages.sh says. What is there already is left alone.
set -euo pipefail
cd "$(dirname "$0")/.."
. tests/debian_packages.sh
packages_into "${1:-.cache/android}"

# By name instead of with all they need: a libc of another day beside this machine's own would not start.
unpack_alone tools bookworm aapt zipalign android-libaapt android-libandroidfw android-libbacktrace android-libbase \
    android-libcutils android-liblog android-libunwind android-libutils android-libziparchive libprotobuf-lite32 \
    libzopfli1 libpng16-16 libexpat1 p7zip-full apksigner libapksig-java junit4 libhamcrest-java libandroid-json-org-java
unpack_alone old bullseye libandroid-23-java dalvik-exchange
echo "$folder"
