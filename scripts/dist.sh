#!/usr/bin/env bash
# Packs a release: a stripped binary in a .tar.gz, a .deb, and their SHA-256, in target/dist or in the folder that
# FAREBOX_DIST names. Root's rights are not needed. The .deb is made with dpkg-deb, which every Debian has; cargo-deb
# would be one more tool that takes minutes to build.
#
#   scripts/dist.sh                     builds with fat LTO first, which takes about ten minutes on two cores
#   FAREBOX_BIN=FILE scripts/dist.sh    packs this binary instead
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly target=${CARGO_TARGET_DIR:-target}
readonly out=${FAREBOX_DIST:-$target/dist}
die() { printf 'dist: %s\n' "$*" >&2; exit 1; }

for tool in dpkg-deb dpkg-shlibdeps strip gzip sha256sum; do
    command -v "$tool" >/dev/null || die "$tool is missing: scripts/setup.sh dist installs it"
done

binary=${FAREBOX_BIN:-}
if [[ -z $binary ]]; then
    cargo build --locked --release --bin farebox
    binary=$target/release/farebox
fi

mkdir -p "$out"
rm -f "$out"/farebox "$out"/farebox-*.tar.gz "$out"/farebox_*.deb "$out"/SHA256SUMS
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
umask 022

strip --strip-unneeded -o "$work/farebox" "$binary"
# "farebox 0.1.0 (0123456789)" is version 0.1.0.
version=$("$work/farebox" --version | cut -d ' ' -f 2)
arch=$(dpkg --print-architecture)

# Files are as old as the commit, so that the same commit gives the same archives.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || date +%s)}
export SOURCE_DATE_EPOCH

# ---- the parts that both packages have
mkdir -p "$work"/{man,completions}
"$work/farebox" man --dir "$work/man"
for shell in bash zsh fish; do
    "$work/farebox" completions "$shell" >"$work/completions/farebox.$shell"
done

# ---- the archive
name=farebox-$version-linux-$arch
folder=$work/$name
mkdir -p "$folder"
cp -r "$work/farebox" "$work/man" "$work/completions" gateway.toml README.md LICENSE deploy/systemd/farebox.service "$folder"
tar --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$SOURCE_DATE_EPOCH" \
    -C "$work" -cf - "$name" | gzip -n >"$out/$name.tar.gz"
install -m 755 "$work/farebox" "$out/farebox"

# ---- the Debian package
root=$work/deb
install -D -m 755 "$work/farebox" "$root/usr/bin/farebox"
install -D -m 644 deploy/systemd/farebox.service "$root/lib/systemd/system/farebox.service"
install -D -m 644 "$work/completions/farebox.bash" "$root/usr/share/bash-completion/completions/farebox"
install -D -m 644 "$work/completions/farebox.zsh" "$root/usr/share/zsh/vendor-completions/_farebox"
install -D -m 644 "$work/completions/farebox.fish" "$root/usr/share/fish/vendor_completions.d/farebox.fish"
install -D -m 644 LICENSE "$root/usr/share/doc/farebox/copyright"
install -D -m 644 gateway.toml "$root/usr/share/doc/farebox/gateway.toml"
install -d "$root/usr/share/man/man1"
for page in "$work"/man/*.1; do
    gzip -9n <"$page" >"$root/usr/share/man/man1/${page##*/}.gz"
done

# The libraries that the binary is linked with; the tool wants a source package around it.
mkdir -p "$work/source/debian" "$root/DEBIAN"
printf 'Source: farebox\n\nPackage: farebox\nArchitecture: any\n' >"$work/source/debian/control"
depends=$(cd "$work/source" && dpkg-shlibdeps -O --ignore-missing-info "$root/usr/bin/farebox" 2>/dev/null |
    sed -n 's/^shlibs:Depends=//p')
[[ -n $depends ]] || die "dpkg-shlibdeps did not tell which libraries the binary needs"
cat >"$root/DEBIAN/control" <<END
Package: farebox
Version: $version
Architecture: $arch
Maintainer: The Farebox authors <farebox@localhost>
Section: net
Priority: optional
Depends: $depends, adduser, ca-certificates
Installed-Size: $(du -ks --exclude=DEBIAN "$root" | cut -f 1)
Description: reverse proxy that takes prepaid credits for AI calls
 Farebox stands in front of AI endpoints. It knows who calls and what a call
 costs, takes the credits before it forwards the call, gives back what was not
 used, and sells credits through Stripe.
END
cat >"$root/DEBIAN/postinst" <<'END'
#!/bin/sh
set -e
if [ "$1" = configure ]; then
    if ! getent passwd farebox >/dev/null; then
        adduser --system --group --no-create-home --home /var/lib/farebox farebox
    fi
    # The service's user owns its config, which has secrets in it, and the ledger's folder.
    install -d -o farebox -g farebox -m 750 /etc/farebox /var/lib/farebox
    if [ -d /run/systemd/system ]; then
        systemctl daemon-reload
        # An upgrade runs the new version. After a first install there is no config yet, and nothing starts.
        systemctl try-restart farebox.service
    fi
    if [ ! -e /etc/farebox/gateway.toml ]; then
        echo "farebox: write a config, then start the service:"
        echo "  runuser -u farebox -- farebox init --config /etc/farebox/gateway.toml --ledger /var/lib/farebox/farebox.db"
        echo "  systemctl enable --now farebox"
    fi
fi
END
cat >"$root/DEBIAN/prerm" <<'END'
#!/bin/sh
set -e
if [ "$1" = remove ] && [ -d /run/systemd/system ]; then
    systemctl disable --now farebox.service
fi
END
chmod 755 "$root/DEBIAN/postinst" "$root/DEBIAN/prerm"
dpkg-deb --root-owner-group --build "$root" "$out/farebox_${version}_${arch}.deb" >/dev/null

(cd "$out" && sha256sum -- farebox ./*.tar.gz ./*.deb | sed 's# \./# #' >SHA256SUMS)
printf 'dist: %s\n' "$out"/*
