{{- define "wharf.labels" -}}
app.kubernetes.io/name: wharfd
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "wharf.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "wharf.bundled" -}}
{{- if eq .Values.engine.mode "bundled" }}true{{ end }}
{{- end }}

{{- /* The names of the engines, the default one first, as a list in JSON. */}}
{{- define "wharf.engines" -}}
{{- $names := list }}
{{- if include "wharf.bundled" . }}
{{- range .Values.engine.groups }}{{ $names = append $names .name }}{{ end }}
{{- if ne (len $names) (len (uniq $names)) }}{{ fail "engine.groups: two groups have the same name" }}{{ end }}
{{- else }}
{{- $names = list "default" }}
{{- end }}
{{- toJson $names }}
{{- end }}

{{- /* wharfd's group in the pod, by which the firewall tells it from the engines. No file belongs to it. */}}
{{- define "wharf.group" -}}
64279
{{- end }}

{{- define "wharf.certsDir" -}}
{{- .Values.certsDir | default (ternary "" "/etc/docker/certs.d" (eq .Values.engine.mode "bundled")) }}
{{- end }}

{{- /* A container of wharfd's image that has root's files and no privilege. */}}
{{- define "wharf.unprivileged" -}}
runAsUser: 0
runAsGroup: 0
allowPrivilegeEscalation: false
privileged: false
readOnlyRootFilesystem: true
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- /* What decides when a pod has to be made anew. */}}
{{- define "wharf.checksum" -}}
{{- $engines := "" }}
{{- if include "wharf.bundled" . }}{{ $engines = include (print $.Template.BasePath "/engines.yaml") . }}{{ end }}
{{- print (include (print $.Template.BasePath "/configmap.yaml") .) $engines | sha256sum }}
{{- end }}

{{/* The address of the metrics' port. */}}
{{- define "wharf.metricsAddress" -}}
{{- if .Values.metrics.address }}{{ .Values.metrics.address }}
{{- else if include "wharf.bundled" . }}0.0.0.0
{{- else }}{{ fail "metrics.address: with engine.mode host the port is the node's, and no NetworkPolicy applies to it: name the address, such as 127.0.0.1, or 0.0.0.0 where a firewall of the nodes admits the scraper alone" }}
{{- end }}
{{- end }}
