"""Writes a wheel with everything that the scanner looks for; nothing in it works.

usage: sample.py FILE
"""

import sys
import zipfile

EICAR = r"X5O!P%@AP[4\PZX54(P^)7CC)7}$" + "EICAR-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*"
FILES = {
    "innocent/__init__.py": 'VERSION = "1.0"\n',
    "innocent/loader.py": "import base64\n\nexec(base64.b64decode(b'cHJpbnQoMSk='))\n",
    "innocent/settings.py": 'KEY = "AKIA' + 'IOSFODNN7EXAMPLE"\n',
    "innocent/data.bin": EICAR,
    "innocent.pth": "import innocent.loader\n",
    "setup.py": "import socket\nfrom setuptools import setup\n\nsetup(cmdclass={})\n",
    "../../escape.txt": "leads out\n",
}


def main():
    with zipfile.ZipFile(sys.argv[1], "w", zipfile.ZIP_DEFLATED) as wheel:
        for name, text in FILES.items():
            wheel.writestr(name, text)
        # Compressed a thousandfold: what unpacks it without a limit runs out of memory or disk.
        wheel.writestr("innocent/bomb.txt", bytes(64 << 20))


if __name__ == "__main__":
    main()
