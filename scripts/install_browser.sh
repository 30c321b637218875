#!/bin/sh
# The browser that tests/test_page.py and scripts/screenshots.py look at the page with, from Debian's packages, and a
# font for the pictures. Run it as root.
set -eu
export DEBIAN_FRONTEND=noninteractive
apt-get update
apt-get install --yes --no-install-recommends chromium fonts-noto-core
