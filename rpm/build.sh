#!/bin/bash
# SPDX-License-Identifier: GPL-3.0-only
# rpm/build.sh srpm|rpm|bundled [FOLDER [OPTION OF RPMBUILD...]]
#   srpm      the source package, for COPR
#   rpm       the same and its packages, with the system's Python dependencies
#   bundled   packages with their dependencies inside, and beside them what these are (CycloneDX)
# FOLDER is rpmbuild's, build/rpm if not given. On Debian, stand-ins replace Fedora's macros; BUILD_PYTHON names the
# interpreter with the build dependencies there. VENDOR is the archive of an earlier "bundled", whose dependencies are
# taken instead of new ones. What git has at HEAD is built, or the folder as it is where git is not.
set -euo pipefail
cd "$(dirname "$0")/.."
what=$1
top=$(realpath -m "${2:-build/rpm}")
version=$(sed -n 's/^__version__ = "\(.*\)"/\1/p' cortex/__init__.py)
name=cortex-$version
python=${BUILD_PYTHON:-$(command -v python3)}
mkdir -p "$top/SOURCES"

if git rev-parse --git-dir >/dev/null 2>&1; then
    git archive --format=tar.gz --prefix="$name/" -o "$top/SOURCES/$name.tar.gz" HEAD
else
    tar --exclude-vcs --exclude='./build' --exclude='./.venv*' --transform "s|^\.|$name|" \
        -czf "$top/SOURCES/$name.tar.gz" .
fi

options=()
if ! rpm --eval '%{?pyproject_wheel:yes}' | grep -q yes; then
    # The path, not --load: rpm 4.20 forgets what was loaded when it reads a noarch spec.
    macros=$(rpm --showrc | sed -n 's/^Macro path: *//p')
    # First of all options: the first that is read settles the path.
    options=(--macros "$macros:$PWD/rpm/macros.debian" --nodeps --define "build_python $python")
fi
options+=(--define "_topdir $top" "${@:3}")

case $what in
srpm) rpmbuild "${options[@]}" --define 'dist %{nil}' -bs rpm/cortex.spec ;;
rpm) rpmbuild "${options[@]}" -ba rpm/cortex.spec ;;
bundled)
    archive=$top/SOURCES/cortex-vendor-$version.tar.gz
    if [ -n "${VENDOR:-}" ]; then
        cp "$VENDOR" "$archive"
    else
        wheels=$(mktemp -d)
        trap 'rm -rf "$wheels"' EXIT
        "$python" -m pip wheel --quiet --wheel-dir "$wheels/vendor" '.[speed,agent]'
        "$python" tools/sbom.py "$wheels/vendor" "$top/cortex-bundled-$version.cdx.json"
        rm "$wheels"/vendor/cortexd-*.whl
        tar -C "$wheels" -czf "$archive" vendor
    fi
    rpmbuild "${options[@]}" --with bundled -bb rpm/cortex.spec
    ;;
*)
    echo "rpm/build.sh: srpm, rpm or bundled, not '$what'" >&2
    exit 2
    ;;
esac
