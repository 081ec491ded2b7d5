#!/usr/bin/env bash
# Checks the files that deploy WhatsNext, as far as this machine can, and says what it could not check. (nginx, HAProxy, Caddy and PgBouncer are run with
# theirs by the tests.) Needs a built program: `cargo build`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=deploy/lib.sh
source deploy/lib.sh

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
binary=$(realpath "$(target_folder)")/debug/whatsnext
[[ -x $binary ]] || die "there is no $binary: run cargo build"
unchecked=()

# Tools that PyPI has, in an environment of their own.
tools=$(target_folder)/check-tools
if have_venv; then
    [[ -x $tools/bin/pip ]] || python3 -m venv "$tools"
    "$tools/bin/pip" install -q --disable-pip-version-check -r deploy/check-requirements.txt
    say "Dockerfile (hadolint), compose file and Kubernetes manifests (their schemas), and whether the settings that they make exist"
    "$tools/bin/hadolint" deploy/docker/Dockerfile
    "$tools/bin/check-jsonschema" --quiet --builtin-schema vendor.compose-spec deploy/docker/compose.yaml
    for version in 1.31.0 1.34.0; do
        for file in deploy/kubernetes/*.yaml; do
            [[ $file == */kustomization.yaml ]] || "$tools/bin/kubernetes-validate" --quiet --strict -k "$version" "$file"
        done
    done
    python3 deploy/kubernetes/check.py "$tools"
else
    unchecked+=("Dockerfile, compose file, Kubernetes manifests: no python3 with venv")
fi
have docker && docker info >/dev/null 2>&1 || unchecked+=("that the image builds and the compose file comes up: no Docker runs here")
if have kubectl; then
    kubectl kustomize deploy/kubernetes >/dev/null
else
    unchecked+=("that kustomize takes the manifests: no kubectl")
fi
unchecked+=("that a cluster takes the manifests")

# Of ten, by systemd's count; most of what is left is that it may use the network.
exposure=1.2
if have systemd-analyze; then
    say "systemd unit"
    sed "s|=/usr/bin/whatsnext|=$binary|" deploy/systemd/whatsnext.service >"$work/whatsnext.service"
    systemd-analyze verify --man=no "$work/whatsnext.service"
    systemd-analyze security --offline=true --no-pager --threshold="${exposure/./}" "$work/whatsnext.service" >"$work/security" ||
        die "the unit is more exposed than $exposure: $(tail -1 "$work/security")"
else
    unchecked+=("systemd unit: no systemd-analyze")
fi
[[ -d /run/systemd/system ]] || unchecked+=("that systemd starts the unit: this machine runs without")

if have cargo-deb && have dpkg-deb && have python3; then
    say "Debian package"
    # Of the program that there is, which need not be a release.
    mkdir -p "$work/target/release"
    cp "$binary" "$work/target/release/"
    python3 deploy/licences.py >"$work/target/release/THIRD-PARTY"
    CARGO_TARGET_DIR=$work/target cargo deb -q --no-build --output "$work/whatsnext.deb" >/dev/null
    dpkg-deb --fsys-tarfile "$work/whatsnext.deb" | tar -t >"$work/contents"
    for file in usr/bin/whatsnext usr/lib/systemd/system/whatsnext.service etc/whatsnext/whatsnext.toml etc/whatsnext/secrets/database_url \
        etc/whatsnext/secrets/redis_url usr/share/doc/whatsnext/{README.md,default.toml,LICENSE-MIT,LICENSE-APACHE,THIRD-PARTY} \
        usr/share/doc/whatsnext/examples/{nginx/whatsnext.conf,prometheus/rules.yml,grafana/whatsnext.json}; do
        grep -qx "\./$file" "$work/contents" || grep -qx "$file" "$work/contents" || die "the package has no $file: $(cat "$work/contents")"
    done
    dpkg-deb -x "$work/whatsnext.deb" "$work/root"
    [[ $(stat -c %a "$work/root/etc/whatsnext/secrets/database_url") == 600 ]] || die "the secrets of the package can be read by everybody"
    # One each of Rust's, of C, and one that brings no licence: with their texts, or who made it.
    for licence in '^tokio [0-9.]*: MIT' '^Copyright (c) Tokio Contributors' '^libmimalloc-sys [0-9.]*: MIT' 'Microsoft Corporation' '^refinery [0-9.]*: MIT' \
        'with its authors, Katharina Fey'; do
        grep -q "$licence" "$work/root/usr/share/doc/whatsnext/THIRD-PARTY" || die "the package does not say under which licences it is: $licence"
    done
    (cd "$work" && DATABASE_URL_FILE=root/etc/whatsnext/secrets/database_url REDIS_URL_FILE=root/etc/whatsnext/secrets/redis_url \
        root/usr/bin/whatsnext serve --check --config root/etc/whatsnext/whatsnext.toml >"$work/settings")
    ! grep '^# warning' "$work/settings" || die "the configuration of the package is warned of"
else
    unchecked+=("Debian package: no cargo-deb (cargo install cargo-deb), dpkg-deb or python3")
fi

for thing in "${unchecked[@]}"; do
    say "not checked: $thing"
done
