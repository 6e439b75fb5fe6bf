"""What the wheel holds and needs. Exact versions, as tested: requirements.txt."""

from setuptools import find_packages, setup

VERSION = "0.2.0"  # the top version of CHANGELOG.md

S3 = ["boto3>=1.44,<2"]

setup(
    name="object2vec",
    version=VERSION,
    description="Object2Vec batch inference on Apache Beam and PyTorch, self-hosted",
    license="Apache-2.0",
    license_files=["LICENSE"],
    # By name: the bare find_packages() would install tests, examples and benchmarks too.
    packages=find_packages(
        include=[
            "object2vec",
            "object2vec.*",
            "pipeline",
            "pipeline.*",
            "transforms",
            "transforms.*",
        ]
    ),
    python_requires=">=3.11",
    install_requires=[
        "apache-beam>=2.77,<2.78",
        "fastavro>=1.13,<2",
        "msgspec>=0.22,<0.23",
        "numpy>=2.0,<3",
        "obstore>=0.12,<0.13",
        "orjson>=3.11.7,<4",
        "rich>=15,<16",
        "safetensors>=0.8,<0.9",
        "tenacity>=9.1,<10",
        "torch>=2.13,<2.14",
        "zstandard>=0.25,<0.26",
    ],
    extras_require={
        "s3": S3,
        "test": ["hypothesis>=6.150,<7", "moto[server]>=5.2,<6", "pytest>=9,<10", *S3],
        "lint": ["mypy>=2.4,<2.5", "ruff>=0.17,<0.18"],
    },
    entry_points={"console_scripts": ["object2vec = pipeline.__main__:main"]},
)
