//! Dockerfiles of usual programs, as their makers publish them.

/// Each with its subject.
pub(crate) const IMAGES: &[(&str, &str)] = &[
    (
        "go",
        r#"FROM golang:1.22-alpine AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN --mount=type=cache,target=/go/pkg/mod go mod download
COPY . .
ARG VERSION=dev
RUN CGO_ENABLED=0 go build -trimpath -ldflags="-s -w -X main.version=${VERSION}" -o /out/app ./cmd/app

FROM gcr.io/distroless/static:nonroot
COPY --from=build /out/app /app
USER nonroot:nonroot
ENTRYPOINT ["/app"]
"#,
    ),
    (
        "go, cross",
        r#"FROM --platform=$BUILDPLATFORM golang:1.22 AS build
ARG TARGETOS TARGETARCH TARGETVARIANT
RUN --mount=target=. --mount=type=cache,target=/root/.cache GOOS=$TARGETOS GOARCH=$TARGETARCH GOARM=${TARGETVARIANT#v} go build -o /app .
FROM scratch
COPY --from=build /app /
"#,
    ),
    (
        "node",
        r#"FROM node:20-slim AS deps
WORKDIR /app
COPY package*.json ./
RUN npm ci --omit=dev && npm cache clean --force

FROM node:20-slim
ENV NODE_ENV=production PORT=3000
WORKDIR /app
COPY --from=deps --chown=node:node /app/node_modules ./node_modules
COPY --chown=node:node . .
USER node
EXPOSE 3000/tcp
HEALTHCHECK --interval=30s --timeout=3s CMD curl -f http://localhost:${PORT}/health || exit 1
CMD ["node", "server.js"]
"#,
    ),
    (
        "next.js",
        r#"FROM node:18-alpine AS base
FROM base AS deps
RUN apk add --no-cache libc6-compat
COPY package.json yarn.lock* package-lock.json* pnpm-lock.yaml* ./
RUN \
  if [ -f yarn.lock ]; then yarn --frozen-lockfile; \
  elif [ -f package-lock.json ]; then npm ci; \
  elif [ -f pnpm-lock.yaml ]; then yarn global add pnpm && pnpm i --frozen-lockfile; \
  else echo "Lockfile not found." && exit 1; \
  fi
FROM base AS runner
COPY --from=deps /app/public ./public
CMD ["node", "server.js"]
"#,
    ),
    (
        "nvm",
        r#"FROM ubuntu:22.04
SHELL ["/bin/bash", "--login", "-c"]
ENV NVM_DIR=/usr/local/nvm NODE_VERSION=18.17.0
RUN curl -o- https://raw.githubusercontent.com/nvm-sh/nvm/v0.39.4/install.sh | bash \
    && . "$NVM_DIR/nvm.sh" && nvm install $NODE_VERSION && nvm alias default $NODE_VERSION
ENV PATH=$NVM_DIR/versions/node/v$NODE_VERSION/bin:$PATH NODE_PATH=$NVM_DIR/v$NODE_VERSION/lib/node_modules
"#,
    ),
    (
        "official node",
        r#"FROM alpine:3.19
ENV NODE_VERSION 20.11.1
RUN addgroup -g 1000 node \
    && adduser -u 1000 -G node -s /bin/sh -D node \
    && ARCH= OPENSSL_ARCH='linux*' && alpineArch="$(apk --print-arch)" \
      && case "${alpineArch##*-}" in \
        x86_64) ARCH='x64' CHECKSUM="aa" OPENSSL_ARCH=linux-x86_64;; \
        *) ;; \
      esac \
  && if [ -n "${CHECKSUM}" ]; then \
    set -eu; \
    curl -fsSLO --compressed "https://unofficial-builds.nodejs.org/v$NODE_VERSION/node-v$NODE_VERSION-linux-$ARCH-musl.tar.xz"; \
  else \
    echo "Building from source" \
    # backup build
    && apk add --no-cache --virtual .build-deps-full g++ \
    && for key in \
      4ED778F539E3634C779C87C6D7062848A1AB005C \
      141F07595B7B3FFE74309A937405533BE57C7D57 \
    ; do \
      gpg --batch --keyserver hkps://keys.openpgp.org --recv-keys "$key" || \
      gpg --batch --keyserver keyserver.ubuntu.com --recv-keys "$key" ; \
    done \
  ; fi
COPY docker-entrypoint.sh /usr/local/bin/
ENTRYPOINT ["docker-entrypoint.sh"]
CMD [ "node" ]
"#,
    ),
    (
        "maven",
        r#"FROM maven:3.9-eclipse-temurin-21 AS build
COPY pom.xml .
RUN --mount=type=cache,target=/root/.m2 mvn -B dependency:go-offline
COPY src src
RUN --mount=type=cache,target=/root/.m2 mvn -B package -DskipTests
FROM eclipse-temurin:21-jre
ARG JAR_FILE=target/*.jar
COPY --from=build ${JAR_FILE} app.jar
ENV JAVA_OPTS="-XX:MaxRAMPercentage=75 -Dfile.encoding=UTF-8"
ENTRYPOINT ["sh", "-c", "java ${JAVA_OPTS} -jar /app.jar ${0} ${@}"]
"#,
    ),
    (
        "spring layers",
        r#"FROM eclipse-temurin:17-jre as builder
WORKDIR application
ARG JAR_FILE=target/*.jar
COPY ${JAR_FILE} application.jar
RUN java -Djarmode=layertools -jar application.jar extract
FROM eclipse-temurin:17-jre
WORKDIR application
COPY --from=builder application/dependencies/ ./
COPY --from=builder application/application/ ./
ENTRYPOINT ["java", "org.springframework.boot.loader.JarLauncher"]
"#,
    ),
    (
        "gradle",
        r#"FROM gradle:8-jdk17 AS build
COPY --chown=gradle:gradle . /home/gradle/src
WORKDIR /home/gradle/src
RUN gradle build --no-daemon
FROM openjdk:17
RUN mkdir /app
COPY --from=build /home/gradle/src/build/libs/*.jar /app/app.jar
CMD java $JAVA_OPTS -jar /app/app.jar
"#,
    ),
    (
        "python",
        r#"FROM python:3.12-slim AS base
ENV PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=off \
    # poetry:
    POETRY_VERSION=1.7.1 \
    POETRY_HOME="/opt/poetry"
ENV PATH="$POETRY_HOME/bin:$VENV_PATH/bin:$PATH"
RUN --mount=type=bind,source=requirements.txt,target=/tmp/requirements.txt \
    --mount=type=cache,target=/root/.cache/pip \
    pip install -r /tmp/requirements.txt
COPY . .
CMD ["gunicorn", "--bind", ":8000", "app.wsgi:application"]
"#,
    ),
    (
        "conda",
        r#"FROM continuumio/miniconda3
COPY environment.yml .
RUN conda env create -f environment.yml
SHELL ["conda", "run", "-n", "myenv", "/bin/bash", "-c"]
RUN python -c "import flask; print(f'{flask.__version__}')"
ENTRYPOINT ["conda", "run", "--no-capture-output", "-n", "myenv", "python", "run.py"]
"#,
    ),
    (
        "uv",
        "FROM python:3.12-slim\nCOPY --from=ghcr.io/astral-sh/uv:0.4.9 /uv /uvx /bin/\nRUN --mount=type=cache,target=/root/.cache/uv --mount=type=bind,source=uv.lock,target=uv.lock uv sync --frozen\n",
    ),
    (
        ".NET",
        r#"FROM mcr.microsoft.com/dotnet/aspnet:8.0 AS base
USER $APP_UID
EXPOSE 8080 8081
FROM mcr.microsoft.com/dotnet/sdk:8.0 AS build
ARG BUILD_CONFIGURATION=Release
COPY ["Web/Web.csproj", "Web/"]
RUN dotnet restore "./Web/Web.csproj"
COPY . .
WORKDIR "/src/Web"
RUN dotnet build "./Web.csproj" -c $BUILD_CONFIGURATION -o /app/build
FROM build AS publish
RUN dotnet publish "./Web.csproj" -c $BUILD_CONFIGURATION -o /app/publish /p:UseAppHost=false
FROM base AS final
COPY --from=publish /app/publish .
ENTRYPOINT ["dotnet", "Web.dll"]
"#,
    ),
    (
        "powershell",
        r#"# escape=`
FROM mcr.microsoft.com/windows/servercore:ltsc2022
SHELL ["powershell", "-Command", "$ErrorActionPreference = 'Stop'; $ProgressPreference = 'SilentlyContinue';"]
RUN Invoke-WebRequest -Uri $('https://dist.nuget.org/win-x86-commandline/v{0}/nuget.exe' -f $env:NUGET) `
        -OutFile "C:\nuget.exe"; `
    # a comment
    New-Item -Path C:\a\ -Type Directory
WORKDIR C:\app\
COPY . C:\app
ENV PATH="C:\app\bin;${PATH}"
ENTRYPOINT ["C:\\app\\run.exe"]
"#,
    ),
    (
        "backticks",
        "# escape=`\r\n\r\nFROM mcr.microsoft.com/windows/nanoserver:1809\r\nCOPY testfile.txt c:\\\r\nRUN dir c:\\\r\n",
    ),
    (
        "rust",
        r#"FROM lukemathwalker/cargo-chef:latest-rust-1 AS chef
WORKDIR /app
FROM chef AS planner
COPY . .
RUN cargo chef prepare --recipe-path recipe.json
FROM chef AS builder
COPY --from=planner /app/recipe.json recipe.json
RUN cargo chef cook --release --recipe-path recipe.json
COPY . .
RUN cargo build --release --bin app
FROM debian:bookworm-slim AS runtime
COPY --from=builder /app/target/release/app /usr/local/bin
ENTRYPOINT ["/usr/local/bin/app"]
"#,
    ),
    (
        "ruby",
        r#"ARG RUBY_VERSION=3.3.0
FROM registry.docker.com/library/ruby:$RUBY_VERSION-slim as base
ENV RAILS_ENV="production" \
    BUNDLE_DEPLOYMENT="1" \
    BUNDLE_WITHOUT="development"
FROM base as build
COPY Gemfile Gemfile.lock ./
RUN bundle install && \
    rm -rf ~/.bundle/ "${BUNDLE_PATH}"/ruby/*/cache "${BUNDLE_PATH}"/ruby/*/bundler/gems/*/.git && \
    bundle exec bootsnap precompile --gemfile
RUN SECRET_KEY_BASE_DUMMY=1 ./bin/rails assets:precompile
FROM base
COPY --from=build "${BUNDLE_PATH}" "${BUNDLE_PATH}"
ENTRYPOINT ["/rails/bin/docker-entrypoint"]
"#,
    ),
    (
        "php",
        r#"FROM php:8.3-fpm-alpine
RUN set -xe && apk add --no-cache --virtual .build-deps $PHPIZE_DEPS && docker-php-ext-install -j$(nproc) pdo_mysql
COPY --from=composer:2 /usr/bin/composer /usr/bin/composer
RUN { \
        echo 'opcache.memory_consumption=128'; \
        echo "memory_limit=\${PHP_MEMORY_LIMIT}"; \
    } > /usr/local/etc/php/conf.d/opcache.ini
"#,
    ),
    (
        "postgres",
        r#"FROM debian:bookworm-slim
RUN set -eux; \
	groupadd -r postgres --gid=999; \
# https://salsa.debian.org/postgresql
	useradd -r -g postgres --uid=999 --home-dir=/var/lib/postgresql postgres

# a comment
ENV GOSU_VERSION 1.17
RUN set -eux; \
	savedAptMark="$(apt-mark showmanual)"; \
	dpkgArch="$(dpkg --print-architecture | awk -F- '{ print $NF }')"; \
	wget -O /usr/local/bin/gosu "https://github.com/tianon/gosu/releases/download/$GOSU_VERSION/gosu-$dpkgArch"; \
	[ -z "$savedAptMark" ] || apt-mark manual $savedAptMark > /dev/null; \
	aptRepo="[ signed-by=/usr/local/share/keyrings/postgres.gpg.asc ] http://apt.postgresql.org/pub/repos/apt bookworm-pgdg main $PG_MAJOR"
STOPSIGNAL SIGINT
VOLUME /var/lib/postgresql/data
"#,
    ),
    (
        "nginx",
        r#"FROM nginx:alpine
RUN rm /etc/nginx/conf.d/default.conf
COPY nginx.conf /etc/nginx/conf.d
COPY <<'EOF' /etc/nginx/templates/default.conf.template
server { listen ${PORT}; location / { try_files $uri $uri/ /index.html; } }
EOF
CMD ["nginx", "-g", "daemon off;"]
"#,
    ),
];
