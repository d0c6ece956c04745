{{- /*
The containers before wharfd's: the firewall, which ends, and then the engines, which run beside wharfd. The kubelet starts each
when the one before it has ended or is up, and at the pod's end it stops the engines after wharfd.
*/}}
{{- define "wharf.engineContainers" -}}
{{- if .Values.firewall.enabled }}
# Sets the rules of the pod's network before there is an engine. If that fails, there is none.
- name: firewall
  image: {{ include "wharf.image" . }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  args:
    - firewall
    - --refuse=$(NODE)
    - --refuse=$(KUBERNETES_SERVICE_HOST)
    {{- range .Values.firewall.refuse }}
    - {{ printf "--refuse=%s" . | quote }}
    {{- end }}
    {{- range .Values.firewall.allow }}
    - {{ printf "--allow=%s" . | quote }}
    {{- end }}
  env:
    - name: NODE
      valueFrom:
        fieldRef:
          fieldPath: status.hostIPs
  securityContext:
    {{- include "wharf.unprivileged" . | nindent 4 }}
    capabilities:
      drop: [ALL]
      add: [NET_ADMIN]
  resources:
    requests: {cpu: 10m, memory: 16Mi}
    limits: {memory: 64Mi}
{{- end }}
{{- range $index, $group := .Values.engine.groups }}
- name: engine-{{ $group.name }}
  image: {{ $.Values.engine.image.repository }}:{{ $.Values.engine.image.tag }}
  imagePullPolicy: {{ $.Values.engine.image.pullPolicy }}
  restartPolicy: Always
  # Each engine has a bridge of its own: the engines share the pod's network, in which wharfd reaches them. With
  # forwarding on, an engine leaves the chain FORWARD open for the others; the firewall has rules of its own.
  command: [/bin/sh, -ec]
  args:
    - |
      echo 1 >/proc/sys/net/ipv4/ip_forward
      ip link show wharf{{ $index }} >/dev/null 2>&1 || ip link add wharf{{ $index }} type bridge
      ip address show dev wharf{{ $index }} | grep -q inet || ip address add {{ include "wharf.bridge" (list $index $group) }} dev wharf{{ $index }}
      ip link set wharf{{ $index }} up
      exec dockerd-entrypoint.sh dockerd --config-file=/etc/wharf-engines/{{ $group.name }}.json
  securityContext:
    # An engine mounts file systems and starts containers.
    privileged: true
    runAsUser: 0
  startupProbe:
    exec:
      command: [docker, --host=unix:///run/engine/docker.sock, version]
    periodSeconds: 1
    timeoutSeconds: 10
    failureThreshold: 120
  # It ends the builds of the engine, and so comes late.
  livenessProbe:
    exec:
      command: [docker, --host=unix:///run/engine/docker.sock, version]
    periodSeconds: 30
    timeoutSeconds: 30
    failureThreshold: 6
  resources:
    {{- toYaml ($group.resources | default $.Values.engine.resources) | nindent 4 }}
  volumeMounts:
    - name: engines
      mountPath: /etc/wharf-engines
      readOnly: true
    - name: engine-{{ $group.name }}
      mountPath: /run/engine
    - name: storage-{{ $group.name }}
      mountPath: /var/lib/docker
{{- end }}
{{- end }}

{{- /* The address of a group's bridge, which no cluster is likely to have: the range is that of benchmarks (RFC 2544). */}}
{{- define "wharf.bridge" -}}
{{- $index := index . 0 }}
{{- $group := index . 1 }}
{{- $group.bridge | default (printf "198.18.%d.1/22" (mul 4 $index)) }}
{{- end }}
